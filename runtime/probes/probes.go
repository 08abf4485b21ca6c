// Package probes asks containers how they are, and runs their hooks, from the host's side (upstream: pkg/kubelet/prober,
// pkg/probe, pkg/kubelet/lifecycle). A Prober asks once. A Watch asks again and again and says when the answers have come
// to another result.
//
// What answers is not trusted: a target that hangs, floods or drips holds its own probe, no longer than its time limit,
// and no more than some kilobytes of memory.
package probes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/version"
	"k8s.io/kubernetes/pkg/probe"
)

// maxStarts bounds the commands of probes that are being started at one time, over all containers. One that finds no place
// waits for its time limit, and has no answer then. A command that has started holds up nobody: of each probe there is one
// at a time, and how long it runs is the container's to say.
const maxStarts = 128

// maxOutput is how much is kept of what a command writes (upstream: pkg/probe/exec).
const maxOutput = 10 << 10

// Target is the container that is asked.
type Target struct {
	Container *v1.Container
	Pod       string // how messages name the pod
	IP        string // where it is reached; "" is nowhere
	// Run runs a command in it, and returns when nothing of the command goes on, which is soon after ctx has ended. The
	// writers do not block. It calls started, if that is set, when the command has been started.
	Run func(ctx context.Context, command []string, stdout, stderr io.Writer, started func()) (code int, err error)
}

// Prober asks once. It holds what all probes of a host share.
type Prober struct {
	client *client
	starts chan struct{} // a slot per command that is being started
}

// New gives a Prober.
func New() *Prober {
	return &Prober{client: newClient(), starts: make(chan struct{}, maxStarts)}
}

// Ask asks once; timeouts are failures. An error says that there is no answer: it counts for nothing (upstream:
// pkg/kubelet/prober/prober.go).
func (p *Prober) Ask(ctx context.Context, spec *v1.Probe, t Target) (result probe.Result, output string, err error) {
	limit := time.Duration(max(spec.TimeoutSeconds, 1)) * time.Second
	switch {
	case spec.Exec != nil:
		return p.exec(ctx, spec.Exec.Command, t, limit)
	case spec.HTTPGet != nil:
		return p.httpGet(ctx, spec.HTTPGet, t, limit)
	case spec.TCPSocket != nil:
		return tcpSocket(ctx, spec.TCPSocket, t, limit)
	case spec.GRPC != nil:
		return grpcCheck(ctx, spec.GRPC, t, limit)
	default:
		return probe.Unknown, "", fmt.Errorf("missing probe handler for %s:%s", t.Pod, t.Container.Name)
	}
}

var errNoAddress = errors.New("the pod has no address")

// host is where t is asked: the host that the spec names, else the pod.
func (t Target) host(named string) (string, error) {
	if named == "" {
		named = t.IP
	}
	if named == "" {
		return "", errNoAddress
	}
	return named, nil
}

// tcpSocket succeeds when a connection can be opened (upstream: pkg/probe/tcp).
func tcpSocket(ctx context.Context, a *v1.TCPSocketAction, t Target, limit time.Duration) (probe.Result, string, error) {
	port, err := probe.ResolveContainerPort(a.Port, t.Container)
	if err != nil {
		return probe.Unknown, "", err
	}
	host, err := t.host(a.Host)
	if err != nil {
		return probe.Unknown, "", err
	}
	d := probe.ProbeDialer()
	d.Timeout = limit
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return probe.Failure, err.Error(), nil
	}
	_ = conn.Close()
	return probe.Success, "", nil
}

// agent is the User-Agent of upstream's kubelet, whose own version is not in a library.
func agent(purpose string) string { return "kube-" + purpose + "/" + version.DefaultKubeBinaryVersion }
