//go:build host

package exits_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/types/known/timestamppb"

	"podd/runtime/containers/containerdtest"
	"podd/status/exits"
)

// TestRun follows a real containerd through a restart. The events are published by the test, as shims do.
func TestRun(t *testing.T) {
	dir, err := os.MkdirTemp("", "podd-exits-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctrd, err := containerdtest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := ctrd.Stop(); err != nil || len(left) > 0 {
			t.Errorf("left: %v %v", left, err)
		}
	})
	cc, err := client.New(ctrd.Address, client.WithTimeout(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	wakes, losts, done := make(chan string, 100), make(chan bool, 100), make(chan error)
	uid := func(_ context.Context, id string) string {
		if id == "foreign" {
			return ""
		}
		return "uid of " + id
	}
	go func() {
		done <- exits.Run(ctx, cc, "ns", exits.Listener{Pod: uid, Lost: func() { losts <- true }, Wake: func(u string) { wakes <- u },
			Ended: func(u string, e exits.End) {
				wakes <- fmt.Sprintf("%s: %d %d %s", u, e.Pid, e.Code, e.At.Format(time.RFC3339))
			}})
	}()
	receive(t, losts)
	publish := func(ns, topic string, event any) {
		t.Helper()
		if err := cc.EventService().Publish(namespaces.WithNamespace(context.Background(), ns), topic, event); err != nil {
			t.Fatal(err)
		}
	}
	publish("other", "/tasks/exit", &apievents.TaskExit{ContainerID: "x", ID: "x"})
	publish("ns", "/tasks/exit", &apievents.TaskExit{ContainerID: "x", ID: "exec"})
	publish("ns", "/tasks/start", &apievents.TaskStart{ContainerID: "x"})
	publish("ns", "/tasks/exit", &apievents.TaskExit{ContainerID: "foreign", ID: "foreign"})
	publish("ns", "/tasks/exit", &apievents.TaskExit{ContainerID: "a", ID: "a", Pid: 7, ExitStatus: 3,
		ExitedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))})
	publish("ns", "/tasks/delete", &apievents.TaskDelete{ContainerID: "b"})
	publish("ns", "/containers/delete", &apievents.ContainerDelete{ID: "c"})
	for _, want := range []string{"uid of a: 7 3 2026-01-02T03:04:05Z", "uid of b", "uid of c"} {
		if got := receive(t, wakes); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := ctrd.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := ctrd.Run(); err != nil {
		t.Fatal(err)
	}
	receive(t, losts)
	publish("ns", "/tasks/delete", &apievents.TaskDelete{ContainerID: "d"})
	if got := receive(t, wakes); got != "uid of d" {
		t.Errorf("after the restart: %q", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
