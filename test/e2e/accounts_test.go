//go:build host

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// inPod is set in pods that run the binary of these tests as a program of theirs: a client of client-go as there are many.
const inPod = "PODD_E2E_IN_POD"

// askFromPod finds the API as every program in a pod does, and prints who it is and what it sees of its namespace.
func askFromPod() error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods(string(namespace)).List(ctx, metav1.ListOptions{})
	sees := "pods"
	switch {
	case apierrors.IsForbidden(err):
		sees = "nothing"
	case err != nil:
		return err
	case len(pods.Items) == 0:
		sees = "no pods"
	}
	fmt.Printf("%s sees %s at %s\n", who.Status.UserInfo.Username, sees, config.Host)
	return nil
}

// asker is a pod that can run askFromPod by /client.
func asker(t *testing.T, name, spec string) pod {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return pod{Name: name, Script: sleepScript,
		Spec:      spec + "\nvolumes: [{name: client, hostPath: {path: " + self + ", type: File}}]",
		Container: "env: [{name: " + inPod + ", value: yes please}]\nvolumeMounts: [{name: client, mountPath: /client, readOnly: true}]"}
}

// TestAccounts: who a pod is, what it may do, and for how long.
func TestAccounts(t *testing.T) {
	t.Parallel()
	s := start(t)
	const account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s, annotations: {podd.dev/access: %s}}}\n---\n"
	s.Apply(fmt.Sprintf(account, "views", "view"))
	s.apply(t, asker(t, "plain", ""), asker(t, "views", "serviceAccountName: views"),
		asker(t, "on-host", "serviceAccountName: views\nhostNetwork: true"), asker(t, "without", "automountServiceAccountToken: false"))
	for _, name := range []string{"plain", "views", "on-host", "without"} {
		s.until(t, name, "ready", ready)
	}
	service, err := s.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := " at https://" + service.Spec.ClusterIP + ":443\n"
	asks := func(pod string) string { return s.must(t, "exec", pod, "--", "/client") }
	for pod, want := range map[string]string{"plain": "default sees nothing", "views": "views sees pods", "on-host": "views sees pods"} {
		if got := asks(pod); got != "system:serviceaccount:default:"+want+at {
			t.Errorf("%s: %q", pod, got)
		}
	}
	if _, errs, code := s.Podctl("exec", "without", "--", "/client"); code == 0 || !strings.Contains(errs, "no such file") {
		t.Errorf("without a token: exit %d, %s", code, errs)
	}
	s.must(t, "annotate", "serviceaccount", "default", "podd.dev/access=view")
	if got := asks("plain"); !strings.Contains(got, "sees pods") {
		t.Errorf("granted: %q", got)
	}
	s.must(t, "annotate", "serviceaccount", "default", "podd.dev/access-")
	if got := asks("plain"); !strings.Contains(got, "sees nothing") {
		t.Errorf("taken back: %q", got)
	}

	// The files: what is in them, and whose they are.
	const files = "cd /var/run/secrets/kubernetes.io/serviceaccount; "
	if got := s.sh(t, "plain", files+"ls; cat namespace; stat -Lc %a.%u token"); got != "ca.crt\nnamespace\ntoken\ndefault644.0" {
		t.Errorf("files: %q", got)
	}
	token := s.sh(t, "views", files+"cat token")
	outside := func() error { return s.by(t, token, list) }
	if err := outside(); err != nil {
		t.Errorf("the pod's token: %v", err)
	}

	testTokens(t, s)

	// Nobody gets in who was not led in.
	endpoints, err := s.client.CoreV1().Endpoints("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	direct := net.JoinHostPort(endpoints.Subsets[0].Addresses[0].IP, strconv.Itoa(int(endpoints.Subsets[0].Ports[0].Port)))
	if conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", direct, &tls.Config{InsecureSkipVerify: true}); err == nil { //nolint:gosec // it must not come so far
		_ = conn.Close()
		t.Errorf("%s answers", direct)
	}

	// A pod's token lives as long as the pod's object, over deaths of podd, and pods find podd again.
	s.Restart()
	if got := asks("views"); got != "system:serviceaccount:default:views sees pods"+at {
		t.Errorf("after a restart of podd: %q", got)
	}
	if err := outside(); err != nil {
		t.Errorf("the pod's token, after a restart: %v", err)
	}
	s.remove(t, "views")
	if err := outside(); !apierrors.IsUnauthorized(err) {
		t.Errorf("the token of a pod that is gone: %v", err)
	}
	testEnvironmentOfAPI(t, s, service)
}

// testEnvironmentOfAPI: the variables by which programs find the API, as upstream's kubelet sets them.
func testEnvironmentOfAPI(t *testing.T, s *suite, service *v1.Service) {
	t.Helper()
	ip := service.Spec.ClusterIP
	want := fmt.Sprintf(`KUBERNETES_PORT=tcp://%[1]s:443
KUBERNETES_PORT_443_TCP=tcp://%[1]s:443
KUBERNETES_PORT_443_TCP_ADDR=%[1]s
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_SERVICE_HOST=%[1]s
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443`, ip)
	if got := s.sh(t, "plain", "env | grep ^KUBERNETES_ | sort"); got != want {
		t.Errorf("environment:\n%s\nwant\n%s", got, want)
	}
	if got := s.sh(t, "on-host", "env | grep ^KUBERNETES_ | sort"); got != want {
		t.Errorf("environment on the host's network:\n%s\nwant\n%s", got, want)
	}
}

// by asks podd's TLS port with a token.
func (s *suite) by(t *testing.T, token string, ask func(context.Context, *kubernetes.Clientset) error) error {
	t.Helper()
	config := rest.AnonymousClientConfig(s.TLSConfig())
	config.BearerToken = token
	http, err := rest.HTTPClientFor(config)
	must(t, err)
	defer utilnet.CloseIdleConnectionsFor(http.Transport)
	set, err := kubernetes.NewForConfigAndClient(config, http)
	must(t, err)
	return ask(t.Context(), set)
}

func list(ctx context.Context, set *kubernetes.Clientset) error {
	_, err := set.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	return err
}

// testTokens: what podctl create token makes, and that nothing goes on with a token whose pod is gone; and a pod's token is
// made again when it is due, beside the one that it has.
func testTokens(t *testing.T, s *suite) {
	token := func(args ...string) string {
		return strings.TrimSpace(s.must(t, append([]string{"create", "token"}, args...)...))
	}
	hour := token("views", "--duration=1h")
	if c := claimsOf(t, hour); c.Subject != "system:serviceaccount:default:views" || c.Expiry-c.Issued != 3600 || c.Kubernetes.Pod.Name != "" {
		t.Errorf("a token for an hour says %+v", c)
	}
	if err := s.by(t, hour, list); err != nil {
		t.Errorf("a token for an hour: %v", err)
	}
	foreign := token("views", "--audience=vault")
	if c := claimsOf(t, foreign); len(c.Audience) != 1 || c.Audience[0] != "vault" {
		t.Errorf("a token for vault is for %q", c.Audience)
	}
	if err := s.by(t, foreign, list); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for vault: %v", err)
	}
	if got := s.refused(t, "", "create", "token", "views", "--duration=9m"); !strings.Contains(got, "may not specify a duration less than 10 minutes") {
		t.Errorf("a token for nine minutes: %s", got)
	}
	if got := s.refused(t, "", "create", "token", "nobody"); !strings.Contains(got, `serviceaccounts "nobody" not found`) {
		t.Errorf("a token of nobody: %s", got)
	}

	// Bound to a pod, whose deletion is what a watch begun with it sees last.
	bearer := sleeper("bearer")
	bearer.Spec = "serviceAccountName: views"
	s.running(t, bearer)
	bound := token("views", "--bound-object-kind=Pod", "--bound-object-name=bearer")
	err := s.by(t, bound, func(ctx context.Context, set *kubernetes.Clientset) error {
		w, err := set.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		defer w.Stop()
		s.remove(t, "bearer")
		limit := time.After(patience)
		for {
			select {
			case _, open := <-w.ResultChan():
				if !open {
					return nil
				}
			case <-limit:
				return errors.New("the watch goes on")
			}
		}
	})
	if err != nil {
		t.Errorf("a watch by the token of a pod that goes: %v", err)
	}
	if err := s.by(t, bound, list); !apierrors.IsUnauthorized(err) {
		t.Errorf("the token of a pod that is gone: %v", err)
	}

	// Due is what is noted beside the content, so that is put back.
	pod := s.until(t, "views", "there", func(*v1.Pod) bool { return true })
	const file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	before := s.sh(t, "views", "cat "+file)
	noted := filepath.Join(s.Root, "pods", string(pod.UID), "volumes", ".content", ".written")
	data, err := os.ReadFile(noted)
	must(t, err)
	due := regexp.MustCompile(`"due":"[^"]*"`)
	if !due.Match(data) {
		t.Fatalf("nothing is due: %s", data)
	}
	must(t, os.WriteFile(noted, due.ReplaceAll(data, []byte(`"due":"`+time.Now().Add(-time.Second).Format(time.RFC3339)+`"`)), 0o600))
	s.must(t, "label", "pod", "views", "looked=at")
	var after string
	eventually(t, func() error {
		if after = s.sh(t, "views", "cat "+file); after == before {
			return errors.New("the token stays")
		}
		return nil
	})
	if old, now := claimsOf(t, before), claimsOf(t, after); now.Expiry < old.Expiry || now.Kubernetes.Pod.UID != string(pod.UID) || now.ID == old.ID {
		t.Errorf("the next token says %+v, the one before %+v", now, old)
	}
	for _, one := range []string{before, after} {
		if err := s.by(t, one, list); err != nil {
			t.Errorf("a pod's tokens: %v", err)
		}
	}
}

// tokenClaims is what a token says, as far as it is looked at here.
type tokenClaims struct {
	Audience   []string `json:"aud"`
	Expiry     int64    `json:"exp"`
	Issued     int64    `json:"iat"`
	ID         string   `json:"jti"`
	Subject    string   `json:"sub"`
	Kubernetes struct {
		Pod struct{ Name, UID string }
	} `json:"kubernetes.io"`
}

func claimsOf(t *testing.T, token string) (c tokenClaims) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a token: %q", token)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	must(t, json.Unmarshal(data, &c))
	return c
}
