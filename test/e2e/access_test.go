//go:build host

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"podd/api/credentials"
	"podd/test/harness"
)

// accessPort is a port that nobody listens on, for a podd that is to have the same one after a restart.
func accessPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// accessFrom is a client of a kubeconfig.
func accessFrom(t *testing.T, kubeconfig string) (*kubernetes.Clientset, *rest.Config) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.Transport) })
	set, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		t.Fatal(err)
	}
	return set, config
}

// TestAccess: what the two users of the TLS port may do with a pod, and what becomes of their kubeconfigs when podd is killed
// and its certificates are damaged.
func TestAccess(t *testing.T) {
	t.Parallel()
	address := accessPort(t)
	s := start(t, harness.WithArgs("--tls-listen", address))
	pod := s.running(t, sleeper("held"))
	adminFile, readerFile := s.Kubeconfig(false), s.Kubeconfig(true)
	admin, adminConfig := accessFrom(t, adminFile)
	reader, readerConfig := accessFrom(t, readerFile)

	execute := func(config *rest.Config, spdy bool) (string, error) {
		url := admin.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(pod.Name).SubResource("exec").
			Param("command", "cat").Param("stdin", "true").Param("stdout", "true").URL()
		executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, url.String())
		if spdy {
			executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, url)
		}
		if err != nil {
			return "", err
		}
		var out bytes.Buffer
		err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("by TLS"), Stdout: &out})
		return out.String(), err
	}
	for _, spdy := range []bool{false, true} {
		if out, err := execute(adminConfig, spdy); err != nil || out != "by TLS" {
			t.Errorf("exec by the admin, SPDY %v: %q %v", spdy, out, err)
		}
		if out, err := execute(readerConfig, spdy); err == nil || !strings.Contains(err.Error(), "forbidden") || out != "" {
			t.Errorf("exec by the reader, SPDY %v: %q %v", spdy, out, err)
		}
	}
	if _, err := reader.CoreV1().Pods("default").GetLogs(pod.Name, &v1.PodLogOptions{}).DoRaw(t.Context()); err != nil {
		t.Errorf("logs by the reader: %v", err)
	}
	if err := reader.CoreV1().Pods("default").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete by the reader: %v", err)
	}
	if _, err := reader.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets by the reader: %v", err)
	}
	out, err := exec.Command(filepath.Join(harness.Built(t), "podctl"), "--kubeconfig", readerFile, "get", "pods").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "held") {
		t.Errorf("podctl with the reader's kubeconfig: %s %v", out, err)
	}

	works := func(what string) {
		t.Helper()
		for name, client := range map[string]*kubernetes.Clientset{"admin": admin, "reader": reader} {
			if _, err := client.CoreV1().Pods("default").Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil {
				t.Errorf("%s: the %s's kubeconfig: %v", what, name, err)
			}
		}
	}
	works("at first")
	token := s.Credentials(credentials.Reader).Token
	s.Restart()
	works("after a kill")
	pki := filepath.Join(s.Root, "pki")
	damage := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(pki, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Restart()
		if log := s.Logs(); !strings.Contains(log, filepath.Join(pki, file)) || !strings.Contains(log, "made again") {
			t.Errorf("the log does not tell of %s:\n%s", file, log)
		}
	}
	damage("server.pem", "-----BEGIN")
	works("with a damaged certificate")
	damage("tokens", "admin")
	works("with damaged tokens")
	if again := s.Credentials(credentials.Reader).Token; again == token {
		t.Error("the token that was lost has come back")
	}
	damage("ca.pem", "")
	if _, err := admin.CoreV1().Pods("default").Get(t.Context(), pod.Name, metav1.GetOptions{}); err == nil {
		t.Error("with a new authority an old kubeconfig works")
	}
	admin, _ = accessFrom(t, s.Kubeconfig(false))
	reader, _ = accessFrom(t, s.Kubeconfig(true))
	works("with new ones after the authority was lost")
	s.remove(t, pod.Name)
}

// TestAccessPortIsTaken: a second podd on the same port says so before it starts anything, and leaves no cgroup.
func TestAccessPortIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	dir := t.TempDir()
	run := func(listen string) (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(harness.Built(t), "podd"), "--tls-listen", listen, "--root", dir+"/root",
			"--state", dir+"/state", "--config-dir", dir+"/config", "--log-dir", dir+"/log", "--bridge", "ptaken0",
			"--namespace", "ptaken", "--cgroup-parent", "/ptaken", "--nft-table", "ptaken", "--group", "root").CombinedOutput()
		return string(out), err
	}
	out, err := run(address)
	if want := fmt.Sprintf("serve TLS (--tls-listen): listen tcp %s: bind: address already in use\n-> Give another one: --tls-listen", address); err == nil || !strings.Contains(out, want) {
		t.Errorf("podd on a port that is taken: %v\n%s", err, out)
	}
	if strings.Contains(out, "started service=") {
		t.Errorf("podd has started something:\n%s", out)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*/ptaken"); err != nil || len(left) > 0 {
		t.Errorf("podd has left %v, %v", left, err)
	}
	for _, wrong := range []string{"6550", "localhost", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:https"} {
		if out, err := run(wrong); err == nil || !strings.Contains(out, "like 127.0.0.1:6550") {
			t.Errorf("--tls-listen %s: %v\n%s", wrong, err, out)
		}
	}
}
