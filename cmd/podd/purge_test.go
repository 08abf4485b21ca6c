package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/claims"
)

// TestPurge: only volumes whose policy is Delete and that podd has made are deleted, unless all are asked for; each is named.
func TestPurge(t *testing.T) {
	volume := func(name, by string, policy v1.PersistentVolumeReclaimPolicy) v1.PersistentVolume {
		return v1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": by}},
			Spec: v1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: policy,
				ClaimRef: &v1.ObjectReference{Namespace: "default", Name: "of-" + name}},
		}
	}
	list := []v1.PersistentVolume{
		volume("delete", claims.Provisioner, v1.PersistentVolumeReclaimDelete),
		volume("retain", claims.Provisioner, v1.PersistentVolumeReclaimRetain),
		volume("other", "", v1.PersistentVolumeReclaimDelete),
		volume("empty", claims.Provisioner, v1.PersistentVolumeReclaimRetain),
	}
	for _, c := range []struct {
		all  bool
		list []v1.PersistentVolume
		stay []string
		said []string
	}{
		{false, list, []string{"nobodys", "other", "retain"}, []string{"deleted: volume delete (claim default/of-delete)",
			"kept: volume retain (claim default/of-retain), retained: ", "kept: volume nobodys, retained: ", "all but 3 retained volumes"}},
		{true, list, nil, []string{"deleted: volume retain (claim default/of-retain)", "deleted: volume nobodys", "removed: "}},
		{false, nil, []string{"delete", "nobodys", "other", "retain"}, []string{"kept: volume delete"}},
	} {
		root := filepath.Join(t.TempDir(), "root")
		for _, file := range []string{"state.db", settingsFile, "claims/delete/f", "claims/retain/f", "claims/nobodys/f", "claims/other/f"} {
			if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o700), os.WriteFile(filepath.Join(root, file), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(root, "claims/empty"), 0o700); err != nil {
			t.Fatal(err)
		}
		said := ""
		say := func(format string, args ...any) { said += fmt.Sprintf(format, args...) + "\n" }
		if err := (purge{root: root, all: c.all, list: c.list, say: say}).run(t.Context()); err != nil {
			t.Error(err)
		}
		for _, want := range c.said {
			if !strings.Contains(said, want) {
				t.Errorf("not said: %s\n%s", want, said)
			}
		}
		for _, file := range []string{"state.db", settingsFile} {
			if _, err := os.Stat(filepath.Join(root, file)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there", file)
			}
		}
		for _, name := range []string{"delete", "retain", "nobodys", "other"} {
			want := strings.Contains(strings.Join(c.stay, " "), name)
			if _, err := os.Stat(filepath.Join(root, "claims", name, "f")); (err == nil) != want {
				t.Errorf("all %v, %d volumes: data of %s stays: %v, want %v", c.all, len(c.list), name, err == nil, want)
			}
		}
	}
}
