//go:build host

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// process is the first process of a container.
type process struct {
	pid     int
	began   uint64 // clock ticks since boot: tells it from a later process of the same number
	running bool
}

// tasks is what containerd runs in podd's namespace, by container id.
func (s *suite) tasks(ctx context.Context) (map[string]process, error) {
	c, err := client.New(s.ContainerdSocket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	r, err := c.TaskService().List(namespaces.WithNamespace(ctx, s.Namespace), &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	all := map[string]process{}
	for _, t := range r.Tasks {
		began, _ := startOf(int(t.Pid))
		all[t.ID] = process{int(t.Pid), began, t.Status == task.Status_RUNNING}
	}
	return all, nil
}

func (s *suite) mustTasks(t *testing.T) map[string]process {
	t.Helper()
	all, err := s.tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fleeting is a client that keeps no connection: podd may be killed, and its descriptors counted, at any time.
func (s *suite) fleeting(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
	}
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://podd", QPS: -1},
		&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sleeping waits until so many processes of pods have become what they are to be, "sleep": from then on the list of all
// processes does not change by itself.
func (s *suite) sleeping(t *testing.T, want int) {
	t.Helper()
	eventually(t, func() error {
		n := 0
		for _, p := range s.mustTasks(t) {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); bytes.HasPrefix(line, []byte("sleep\x00")) {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d processes sleep, want %d", n, want)
		}
		return nil
	})
}

// plant makes a container in containerd that podd does not know.
func (s *suite) plant(t *testing.T, id string) {
	t.Helper()
	c, err := client.New(s.ContainerdSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := namespaces.WithNamespace(t.Context(), s.Namespace)
	_, err = c.ContainerService().Create(ctx, containers.Container{
		ID: id, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}, Spec: &anypb.Any{TypeUrl: "x", Value: []byte("{}")},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// startOf is field 22 of /proc/PID/stat.
func startOf(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
