// Package network gives pods their network: a pinned network namespace, an interface through CNI, host ports, and
// one static masquerade rule for the whole pod range.
//
// What podd has done for a pod is written down before it is done (see record.go), so whatever a crash leaves behind is
// found and taken away by the same Ensure and Remove that steady state runs. The truth about a pod is the kernel's:
// Look compares the record with the namespace and the interface that are really there.
package network

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Options say where the network lives. All fields but Timeout and Log are needed.
type Options struct {
	ConfDir  string       // CNI configuration lists; the first by name wins over podd's own
	BinDirs  []string     // where CNI plugins are looked for, in order
	StateDir string       // durable: records, CNI results, addresses handed out
	NetnsDir string       // pinned namespaces, on a tmpfs
	Bridge   string       // name of the default bridge
	Range    netip.Prefix // addresses of pods on the default bridge
	Table    string       // name of podd's nftables table
	Timeout  time.Duration
	Log      *slog.Logger
}

// Defaults for the options that have one.
const (
	DefaultBridge = "podd0"
	DefaultTable  = "podd"
	// DefaultTimeout bounds one ADD or DEL of all plugins together. The kubelet gives up on a whole sandbox after
	// 2 minutes (RuntimeRequestTimeout in pkg/kubelet/apis/config); this leaves room for a DEL and a second ADD.
	DefaultTimeout = 45 * time.Second
)

// DefaultRange is where pods get addresses from unless told otherwise.
var DefaultRange = netip.MustParsePrefix("10.85.0.0/16")

// Network is the pods' network on this host.
type Network struct{ o Options }

// Pod is what the network needs to know of a pod.
type Pod struct {
	UID, Namespace, Name string
	Attempt              int // of the sandbox
	HostNetwork          bool
	Ports                []v1.ContainerPort // those with a HostPort are mapped, others ignored
}

// Result is what Ensure made.
type Result struct {
	IPs   []string // as the CNI result orders them; none with HostNetwork
	Netns string   // path of the pinned namespace; empty with HostNetwork
}

// State is what there is of a pod's network.
type State struct {
	Attached bool // something is left to take away
	Ready    bool // namespace, interface and addresses are there as recorded
	Attempt  int  // of the sandbox that Result belongs to
	Result   Result
}

// Open checks the options and makes the directories. It changes nothing else on the host; Setup does.
func Open(o Options) (*Network, error) { return nil, errors.New("network: not built") }

// Setup makes the host ready for pods and may be called at any time again: it writes the default configuration when
// there is none, turns on forwarding, and puts podd's nftables table right, host ports of recorded pods included.
func (n *Network) Setup(ctx context.Context) error { return errors.New("network: not built") }

// Netns makes and pins the pod's network namespace and returns its path: the sandbox may start in it while Ensure is
// still at work. With HostNetwork the path is empty.
func (n *Network) Netns(ctx context.Context, p Pod) (string, error) {
	return "", errors.New("network: not built")
}

// Ensure gives the pod its interface, addresses and host ports. What other attempts of the pod have left is taken
// away first.
func (n *Network) Ensure(ctx context.Context, p Pod) (Result, error) {
	return Result{}, errors.New("network: not built")
}

// Look says what there is for the pod. It changes nothing and executes nothing.
func (n *Network) Look(uid string) (State, error) { return State{}, errors.New("network: not built") }

// Remove takes away all that any attempt of the pod has: host ports, interface, addresses, namespace. It is nil when
// nothing is left; an error means that it has to be called again.
func (n *Network) Remove(ctx context.Context, uid string) error {
	return errors.New("network: not built")
}

// Known lists the uids of all pods that have anything left on the host.
func (n *Network) Known(ctx context.Context) ([]string, error) {
	return nil, errors.New("network: not built")
}

// Clear takes away what Setup made: the nftables table and the default bridge. For when podd leaves the host.
func (n *Network) Clear(ctx context.Context) error { return errors.New("network: not built") }
