//go:build host

package bench

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
	"podd/test/ociimage"
)

const trueImage = "localhost/true:bench"

// BenchmarkExec is exec of true through the API, over a WebSocket on podd's socket as kubectl speaks it, against runc exec of
// the same in the same container, one after the other.
func BenchmarkExec(tb *testing.B) {
	b := open(tb)
	box, err := ociimage.Busybox(trueImage, "/bin/busybox")
	if err != nil {
		tb.Fatal(err)
	}
	b.podd.Load(box)
	name, grace := b.name(), int64(0)
	b.create(&v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []v1.Container{{
			Name: "app", Image: trueImage, ImagePullPolicy: v1.PullNever, Command: []string{"sleep", "1000000"},
		}}},
	})
	b.await(name, running)
	pod, err := b.client.CoreV1().Pods("default").Get(tb.Context(), name, metav1.GetOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	id := pod.Status.ContainerStatuses[0].ContainerID[len("containerd://"):]
	binary := filepath.Join(harness.Built(tb), "..", "libexec", "podd", "runc")
	runc := []string{"--root", filepath.Join(b.podd.State, "runc", b.podd.Namespace), "exec", id, "true"}
	var api, alone, shell series
	for n := range warmups + *samples {
		start := time.Now()
		if out, err := exec.CommandContext(tb.Context(), binary, runc...).CombinedOutput(); err != nil {
			tb.Fatalf("runc exec: %v\n%s", err, out)
		}
		one := time.Since(start)
		start = time.Now()
		b.exec(name, "true")
		two := time.Since(start)
		if n >= warmups {
			alone, api = append(alone, one), append(api, two)
		}
	}
	for range max(*samples/5, 1) {
		start := time.Now()
		b.podd.Must("exec", name, "--", "true")
		shell = append(shell, time.Since(start))
	}
	ratio := float64(api.at(.5)) / float64(alone.at(.5))
	tb.ReportMetric(ratio, "times-runc")
	report(tb,
		"runc exec alone             "+alone.String(),
		"exec through the API        "+api.String(),
		"podctl exec                 "+shell.String(),
		fmt.Sprintf("API to runc, of medians     %.2f (target at most 2)", ratio))
}

// exec runs a command and waits for its status.
func (b *bench) exec(pod string, command ...string) {
	b.Helper()
	conn, err := net.Dial("unix", b.podd.Socket)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	query := url.Values{"command": command, "container": {"app"}, "stdout": {"true"}, "stderr": {"true"}}
	config, err := websocket.NewConfig("ws://podd/api/v1/namespaces/default/pods/"+pod+"/exec?"+query.Encode(), "http://podd")
	if err != nil {
		b.Fatal(err)
	}
	config.Protocol, config.Header = []string{"v5.channel.k8s.io"}, http.Header{}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		b.Fatal(err)
	}
	for {
		var frame []byte
		if err := websocket.Message.Receive(ws, &frame); err != nil {
			b.Fatalf("exec: %v", err)
		}
		if len(frame) < 2 || frame[0] != 3 { // the channel of the status
			continue
		}
		var status metav1.Status
		if err := json.Unmarshal(frame[1:], &status); err != nil || status.Status != metav1.StatusSuccess {
			b.Fatalf("exec: %s %v", frame[1:], err)
		}
		return
	}
}
