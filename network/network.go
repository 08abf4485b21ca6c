// Package network gives pods their network: a pinned network namespace, an interface through CNI, host ports, and
// one static masquerade rule for the whole pod range.
//
// What podd is about to do for a pod is written down before it is done (record.go), so whatever a crash leaves behind
// is found and taken away by the same Ensure and Remove that steady state runs. The truth about a pod is the kernel's:
// Look compares the record with the namespace and the interface that are really there.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	v1 "k8s.io/api/core/v1"
)

// Options say where the network lives. Timeout and Log may be left out; so may Bridge, Range and Table.
type Options struct {
	ConfDir  string       // CNI configuration lists; the first by name wins, podd writes one when there is none
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
	// 2 minutes (runtimeRequestTimeout in pkg/kubelet/apis/config); this leaves room for a DEL and a second ADD.
	DefaultTimeout = 45 * time.Second
)

// DefaultRange is where pods get addresses from unless told otherwise.
var DefaultRange = netip.MustParsePrefix("10.85.0.0/16")

// Network is the pods' network on this host. It is safe for concurrent use; different pods do not wait for each other.
type Network struct {
	o   Options
	cni *libcni.CNIConfig

	attach locks // by uid: Ensure and Remove
	pin    locks // by uid: making and taking away namespaces; never held while a plugin runs

	table struct { // podd's nftables table
		sync.Mutex
		want map[portKey]element // every host port of every recorded pod
		conf *conf               // the last good configuration: what the rules are made from
		lead lead                // to podd's API
	}
	warned  sync.Map   // messages that were logged once already
	writing sync.Mutex // of the default configuration
}

// Pod is what the network needs to know of a pod.
type Pod struct {
	UID, Namespace, Name string
	Attempt              int // of the sandbox
	HostNetwork          bool
	Made                 string             // path of a network namespace that nothing is in yet, to be taken instead of making one; or ""
	Apart                bool               // its processes may be in a kernel of their own, with another localhost than the namespace has
	Ports                []v1.ContainerPort // those with a HostPort are mapped, others ignored
	Bandwidth            Bandwidth
}

// Result is what Ensure made.
type Result struct {
	IPs   []string // as the CNI result orders them; none with HostNetwork
	Netns string   // path of the pinned namespace; empty with HostNetwork
}

// State is what there is of a pod's network.
type State struct {
	Attached bool // something is left to take away
	Ready    bool // namespace, interface and addresses are there as recorded; never true with HostNetwork
	Attempt  int  // of the sandbox that Result belongs to
	Result   Result
}

// Open checks the options, makes the directories and reads the records. It changes nothing else; Setup does.
func Open(o Options) (*Network, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	for _, dir := range []string{o.ConfDir, o.StateDir, o.recordDir(), o.NetnsDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
	}
	for _, dir := range []string{o.ConfDir, o.recordDir()} {
		if err := removeUnfinished(dir); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
	}
	return Look(o)
}

// Look is Open for who is only to take away what there is: it makes nothing.
func Look(o Options) (*Network, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	n := &Network{o: o, cni: libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.StateDir, &plugins{})}
	n.table.want = map[portKey]element{}
	records, err := n.records()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		for _, a := range r.Attempts {
			n.adopt(a)
		}
	}
	return n, nil
}

func (o *Options) complete() error {
	if o.Bridge == "" {
		o.Bridge = DefaultBridge
	}
	if o.Table == "" {
		o.Table = DefaultTable
	}
	if !o.Range.IsValid() {
		o.Range = DefaultRange
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Range = o.Range.Masked()
	if bits := o.Range.Addr().BitLen() - o.Range.Bits(); bits < 2 {
		return fmt.Errorf("pod range %s: has no addresses for pods", o.Range)
	}
	if len(o.Bridge) > 15 {
		return fmt.Errorf("bridge %s: longer than 15 characters", o.Bridge)
	}
	for what, dir := range map[string]string{"configuration": o.ConfDir, "state": o.StateDir, "namespace": o.NetnsDir} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("network %s directory %q: is not absolute", what, dir)
		}
	}
	return nil
}

func (o *Options) recordDir() string { return filepath.Join(o.StateDir, "records") }
func (o *Options) ipamDir() string   { return filepath.Join(o.StateDir, "ipam") }

// Setup makes the host ready for pods and may be called at any time again: it writes the default configuration when
// there is none, turns on forwarding, and puts podd's nftables table right, host ports of recorded pods included.
func (n *Network) Setup(ctx context.Context) error {
	c, err := n.ensureConf()
	if err != nil {
		return err
	}
	n.checkRange(c)
	if err := n.setupHost(c); err != nil {
		return err
	}
	n.table.Lock()
	defer n.table.Unlock()
	return n.setupTable()
}

// checkRange warns of a range that has no effect: podd's default is written once, and holds from then on.
func (n *Network) checkRange(c *conf) {
	if c.own && len(c.subnets()) > 0 && !slices.Contains(c.subnets(), n.o.Range) {
		n.warnOnce("--pod-cidr has no effect: the network configuration holds; remove its file, and another is written",
			"flag", n.o.Range.String(), "file", c.file, "range", c.subnets()[0].String())
	}
}

// Clear takes away what Setup made: the nftables table and, when no pod is on it, the default bridge.
func (n *Network) Clear(ctx context.Context) error {
	known, err := n.Known(ctx)
	if err != nil {
		return err
	}
	if len(known) > 0 {
		return fmt.Errorf("clear network: %d pods are attached", len(known))
	}
	n.table.Lock()
	defer n.table.Unlock()
	return errors.Join(n.removeTable(), n.removeBridge())
}

// warnOnce logs a message that would otherwise repeat at every Setup.
func (n *Network) warnOnce(msg string, args ...any) {
	if _, said := n.warned.LoadOrStore(fmt.Sprint(msg, args), true); !said {
		n.o.Log.Warn(msg, args...)
	}
}
