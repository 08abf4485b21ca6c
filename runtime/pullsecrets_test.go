package runtime

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCredentials: which of the secrets' credentials an image is pulled with, and in which order.
func TestCredentials(t *testing.T) {
	auth := func(user string) string { return base64.StdEncoding.EncodeToString([]byte(user + ":pass")) }
	of := func(kind v1.SecretType, key, text string) v1.Secret {
		return v1.Secret{Type: kind, Data: map[string][]byte{key: []byte(text)}}
	}
	from := []v1.Secret{
		of(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, fmt.Sprintf(`{"auths":{"r.example:5000":{"auth":%q},"r.example:5000/team":{"auth":%q},
			"https://index.docker.io/v1/":{"auth":%q},"*.wild.example":{"username":"wild","password":"pass"}}}`, auth("all"), auth("team"), auth("hub"))),
		of(v1.SecretTypeDockercfg, v1.DockerConfigKey, fmt.Sprintf(`{"old.example":{"auth":%q}}`, auth("old"))),
		of(v1.SecretTypeOpaque, v1.DockerConfigJsonKey, `{"auths":{"opaque.example":{"username":"x","password":"y"}}}`),
	}
	for name, want := range map[string][]string{
		"r.example:5000/team/app:1": {"team", "all"}, "r.example:5000/other@sha256:0123": {"all"}, "docker.io/library/busybox:latest": {"hub"},
		"a.wild.example/x:1": {"wild"}, "old.example/x:1": {"old"}, "opaque.example/x:1": nil, "r.example/team/app:1": nil,
	} {
		auths, err := credentials(from, name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range auths {
			if a.Secret == "" {
				t.Errorf("%s: %s without a secret", name, a.User)
			}
			got = append(got, a.User)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if auths, err := credentials(nil, "r.example/x:1"); err != nil || len(auths) != 0 {
		t.Errorf("without secrets: %v, %v", auths, err)
	}
}

// TestUselessSecrets: a secret that no pull can use is told of, with its type and never with what is in it.
func TestUselessSecrets(t *testing.T) {
	for _, c := range []struct {
		kind v1.SecretType
		key  string
		want string
	}{
		{v1.SecretTypeOpaque, v1.DockerConfigJsonKey, "secret s is of type Opaque, not kubernetes.io/dockerconfigjson"},
		{"", v1.DockerConfigJsonKey, "secret s is of type Opaque, not kubernetes.io/dockerconfigjson"},
		{v1.SecretTypeDockerConfigJson, v1.DockerConfigKey, "secret s has nothing at its key .dockerconfigjson"},
		{v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, ""},
		{v1.SecretTypeDockercfg, v1.DockerConfigKey, ""},
	} {
		secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Type: c.kind, Data: map[string][]byte{c.key: []byte("hidden")}}
		if got := uselessFor(secret); got != c.want {
			t.Errorf("%s with %s: %q, want %q", c.kind, c.key, got, c.want)
		}
	}
}
