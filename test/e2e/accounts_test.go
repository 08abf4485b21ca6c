//go:build host

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

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
	outside := func() error {
		config := rest.AnonymousClientConfig(s.TLSConfig())
		config.BearerToken = token
		http, err := rest.HTTPClientFor(config)
		if err != nil {
			return err
		}
		defer utilnet.CloseIdleConnectionsFor(http.Transport)
		set, err := kubernetes.NewForConfigAndClient(config, http)
		if err != nil {
			return err
		}
		_, err = set.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := outside(); err != nil {
		t.Errorf("the pod's token: %v", err)
	}

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
