package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"podd/runtime/killpoint"
)

// ifName is the pod's interface, as in every CNI runtime.
const ifName = "eth0"

// Ensure gives the pod its interface, addresses and host ports. What other attempts of the pod have left is taken
// away first. A result that is still good is given again; otherwise DEL runs before ADD.
func (n *Network) Ensure(ctx context.Context, p Pod) (Result, error) {
	if p.HostNetwork {
		return Result{}, nil
	}
	if err := checkUID(p.UID); err != nil {
		return Result{}, err
	}
	release, err := n.attach.take(ctx, p.UID)
	if err != nil {
		return Result{}, fmt.Errorf("network of %s/%s: %w", p.Namespace, p.Name, err)
	}
	defer release()
	res, err := n.ensure(ctx, p)
	if err != nil {
		return Result{}, fmt.Errorf("network of %s/%s: %w", p.Namespace, p.Name, err)
	}
	return res, nil
}

func (n *Network) ensure(ctx context.Context, p Pod) (Result, error) {
	r, _, err := n.readRecord(p.UID)
	if err != nil {
		return Result{}, err
	}
	r.Namespace, r.Name = p.Namespace, p.Name
	for _, old := range slices.Clone(r.Attempts) {
		if old.Attempt != p.Attempt {
			if err := n.detach(ctx, &r, old); err != nil {
				return Result{}, err
			}
		}
	}
	path, err := n.Netns(ctx, p)
	if err != nil {
		return Result{}, err
	}
	c, err := n.ensureConf()
	if err != nil {
		return Result{}, err
	}
	if err := n.attached(ctx, c, &r, p, path); err != nil {
		return Result{}, err
	}
	a := r.find(p.Attempt)
	if ports := hostPorts(p.Ports); len(ports) > 0 && !c.mapsPorts() && len(a.Ports) == 0 {
		ms, err := mappings(ports, a.IPs)
		if err != nil {
			return Result{}, err
		}
		if err := n.mapPorts(&r, *a, ms); err != nil {
			return Result{}, err
		}
	}
	return Result{IPs: a.IPs, Netns: path}, nil
}

// attached makes sure that ADD has been done and what it made is there.
func (n *Network) attached(ctx context.Context, c *conf, r *record, p Pod, path string) error {
	if a := r.find(p.Attempt); a != nil {
		if ok, err := n.good(*a, path); err != nil || ok {
			return err
		}
		if err := n.del(ctx, *a, path); err != nil {
			return err
		}
	}
	return n.add(ctx, c, r, p, path)
}

// add runs ADD. That it is about to run is recorded before, with all that DEL needs.
func (n *Network) add(ctx context.Context, c *conf, r *record, p Pod, path string) error {
	id := attemptID(p.UID, p.Attempt)
	limit := p.Bandwidth.cni()
	if limit != nil && !c.limitsBandwidth() {
		var err error
		if c, err = c.withBandwidth(limit); err != nil {
			return fmt.Errorf("limit bandwidth: %w", err)
		}
		limit = nil
	}
	a := attempt{ID: id, Attempt: p.Attempt, Apart: p.Apart, Config: string(c.list.Bytes), Bandwidth: limit, Args: [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", p.Namespace},
		{"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", id},
		{"K8S_POD_UID", p.UID},
	}}
	if c.mapsPorts() {
		a.Ports = hostPorts(p.Ports)
	}
	if c.own {
		if err := n.setupBridge(); err != nil {
			return err
		}
	}
	r.put(a)
	if err := n.writeRecord(*r); err != nil {
		return err
	}
	killpoint.At("network.add.before")
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	res, err := n.cni.AddNetworkList(ctx, c.list, n.runtimeConf(a, path))
	if err != nil {
		return fmt.Errorf("add to network %s: %w", c.list.Name, err)
	}
	killpoint.At("network.add.after")
	if err := a.fill(res, path); err != nil {
		return fmt.Errorf("add to network %s: %w", c.list.Name, err)
	}
	r.put(a)
	if err := n.writeRecord(*r); err != nil {
		return err
	}
	killpoint.At("network.add.recorded")
	return nil
}

// bounded gives plugins their time. A caller that goes away does not cut them off half way: what changes the host runs
// to its end.
func (n *Network) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), n.o.Timeout,
		fmt.Errorf("no answer within %s", n.o.Timeout))
}

func (n *Network) runtimeConf(a attempt, netnsPath string) *libcni.RuntimeConf {
	rc := &libcni.RuntimeConf{ContainerID: a.ID, NetNS: netnsPath, IfName: ifName, Args: a.Args}
	rc.CapabilityArgs = map[string]any{}
	if len(a.Ports) > 0 {
		rc.CapabilityArgs["portMappings"] = a.Ports
	}
	if a.Bandwidth != nil {
		rc.CapabilityArgs["bandwidth"] = a.Bandwidth
	}
	return rc
}

// fill takes over what ADD answered. An answer without an address in it is of no use to a pod.
func (a *attempt) fill(answer types.Result, path string) error {
	res, err := types100.NewResultFromResult(answer)
	if err != nil {
		return err
	}
	for _, ip := range res.IPs {
		if ip.Address.IP == nil {
			return errors.New("the result has an empty address")
		}
		a.IPs = append(a.IPs, ip.Address.IP.String())
	}
	if len(a.IPs) == 0 {
		return errors.New("the result has no address")
	}
	for _, i := range res.Interfaces {
		if i.Sandbox != "" || a.HostIf != "" {
			continue
		}
		if link, err := netlink.LinkByName(i.Name); err == nil && link.Type() == "veth" {
			a.HostIf, a.HostMAC = i.Name, link.Attrs().HardwareAddr.String()
			if master, err := netlink.LinkByIndex(link.Attrs().MasterIndex); err == nil && link.Attrs().MasterIndex != 0 {
				a.Master = master.Attrs().Name
			}
		}
	}
	if a.NetnsID, err = netnsID(path); err != nil {
		return err
	}
	if a.NetnsID == "" {
		return fmt.Errorf("network namespace %s: went away", path)
	}
	a.Added = true
	return nil
}

// good says whether what is recorded of the attempt is still what is there. An error says that it could not be looked
// at: that is no reason to take a pod's address away.
func (n *Network) good(a attempt, path string) (bool, error) {
	if !a.Added {
		return false, nil
	}
	if id, err := netnsID(path); err != nil || id != a.NetnsID {
		return false, err
	}
	ips := a.IPs
	if a.Apart {
		ips = nil // gVisor's has taken them away from there when the sandbox started
	}
	if ok, err := hasInterface(path, ips); err != nil || !ok {
		return false, err
	}
	return onBridge(a)
}

// hasInterface looks into the namespace for the pod's interface with all its addresses.
func hasInterface(path string, ips []string) (bool, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return false, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer h.Close()
	link, err := h.LinkByName(ifName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("interface %s in %s: %w", ifName, path, err)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		addrs, err = h.AddrList(link, netlink.FAMILY_ALL)
	}
	if err != nil {
		return false, fmt.Errorf("addresses in %s: %w", path, err)
	}
	for _, ip := range ips {
		want := net.ParseIP(ip)
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(want) }) {
			return false, nil
		}
	}
	return true, nil
}

// onBridge says whether the host end is still on the bridge that ADD put it on.
func onBridge(a attempt) (bool, error) {
	if a.Master == "" {
		return true, nil
	}
	bridge, err := netlink.LinkByName(a.Master)
	if err == nil {
		var link netlink.Link
		if link, err = netlink.LinkByName(a.HostIf); err == nil {
			return link.Attrs().MasterIndex == bridge.Attrs().Index, nil
		}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	return false, fmt.Errorf("interface %s on %s: %w", a.HostIf, a.Master, err)
}

// Look says what there is for the pod. It changes nothing and executes nothing.
func (n *Network) Look(uid string) (State, error) {
	if err := checkUID(uid); err != nil {
		return State{}, err
	}
	r, there, err := n.readRecord(uid)
	if err != nil {
		return State{}, fmt.Errorf("look at network of %s: %w", uid, err)
	}
	if !there {
		pins, err := n.pins(uid)
		return State{Attached: len(pins) > 0}, err
	}
	s := State{Attached: true}
	if len(r.Attempts) == 0 {
		return s, nil
	}
	newest := slices.MaxFunc(r.Attempts, func(a, b attempt) int { return a.Attempt - b.Attempt })
	path := n.netnsPath(uid, newest.Attempt)
	s.Attempt = newest.Attempt
	s.Result = Result{IPs: newest.IPs, Netns: path}
	s.Ready, err = n.good(newest, path)
	return s, err
}

// Remove takes away all that any attempt of the pod has: host ports, interface, addresses, namespace. It is nil when
// nothing is left; an error means that something is, and that Remove has to be called again.
func (n *Network) Remove(ctx context.Context, uid string) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	release, err := n.attach.take(ctx, uid)
	if err != nil {
		return fmt.Errorf("remove network of %s: %w", uid, err)
	}
	defer release()
	r, there, err := n.readRecord(uid)
	if err != nil {
		return fmt.Errorf("remove network of %s: %w", uid, err)
	}
	left, err := n.unrecorded(uid, there)
	if err != nil {
		return fmt.Errorf("remove network of %s: %w", uid, err)
	}
	for _, a := range left {
		if r.find(a.Attempt) == nil {
			r.put(a)
		}
	}
	var errs []error
	for _, a := range slices.Clone(r.Attempts) {
		errs = append(errs, n.detach(ctx, &r, a))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove network of %s: %w", uid, err)
	}
	killpoint.At("network.record.before")
	if err := n.removeRecord(uid); err != nil {
		return err
	}
	killpoint.At("network.record.after")
	return nil
}

// unrecorded finds attempts by what is on the host: namespaces always (Netns writes no record), the rest only when the
// record is lost.
func (n *Network) unrecorded(uid string, recorded bool) ([]attempt, error) {
	ids, err := n.pins(uid)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	if !recorded {
		if found, err = n.found(); err != nil {
			return nil, err
		}
	}
	for _, id := range ids {
		if _, ok := found[id]; !ok {
			found[id] = ""
		}
	}
	var all []attempt
	for id, config := range found {
		if owner, nr, ok := parseAttemptID(id); ok && owner == uid {
			all = append(all, attempt{ID: id, Attempt: nr, Config: config})
		}
	}
	return all, nil
}

// detach takes one attempt away and out of the record.
func (n *Network) detach(ctx context.Context, r *record, a attempt) error {
	path := n.netnsPath(r.UID, a.Attempt)
	if err := n.del(ctx, a, path); err != nil {
		return err
	}
	release, err := n.pin.take(ctx, r.UID)
	if err != nil {
		return err
	}
	defer release()
	killpoint.At("network.unpin.before")
	if err := unpin(path); err != nil {
		return err
	}
	killpoint.At("network.unpin.after")
	r.drop(a.Attempt)
	return nil
}

// del takes host ports, interface and addresses of an attempt away, with the configuration that ADD had. Without a
// namespace (after a reboot, or when someone took it) plugins get none, and free what they keep elsewhere.
func (n *Network) del(ctx context.Context, a attempt, path string) error {
	c, err := n.confOf(a)
	if err != nil {
		return err
	}
	if err := n.unmapPorts(a); err != nil {
		return err
	}
	if id, err := netnsID(path); err != nil {
		return err
	} else if id == "" {
		path = ""
	}
	killpoint.At("network.del.before")
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	if err := n.cni.DelNetworkList(ctx, c.list, n.runtimeConf(a, path)); err != nil {
		return fmt.Errorf("delete from network %s: %w", c.list.Name, err)
	}
	killpoint.At("network.del.after")
	return removeHostIf(a)
}

// confOf is the configuration that the attempt was added with, or else the one that is there now.
func (n *Network) confOf(a attempt) (*conf, error) {
	if a.Config != "" {
		if list, err := libcni.NetworkConfFromBytes([]byte(a.Config)); err == nil {
			return newConf(list)
		}
	}
	c, err := n.conf()
	if err != nil || c.limitsBandwidth() {
		return c, err
	}
	return c.withBandwidth(nil) // it may have had a limit
}

// removeHostIf deletes a host end that outlived DEL: that of a namespace that is no longer pinned but still in use.
func removeHostIf(a attempt) error {
	if a.HostIf == "" {
		return nil
	}
	link, err := netlink.LinkByName(a.HostIf)
	if err != nil || link.Type() != "veth" || link.Attrs().HardwareAddr.String() != a.HostMAC {
		return nil // gone, or another's by now
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", a.HostIf, err)
	}
	return nil
}

// Known lists the uids of all pods that have anything left on the host: a record, a namespace, a CNI result, an
// address, or a host port.
func (n *Network) Known(ctx context.Context) ([]string, error) {
	names, err := listDir(n.o.recordDir())
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	seen := map[string]bool{}
	for _, uid := range names {
		if checkUID(uid) == nil {
			seen[uid] = true
		}
	}
	pins, err := listDir(n.o.NetnsDir)
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	found, err := n.found()
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	for id := range found {
		pins = append(pins, id)
	}
	for _, id := range pins {
		if uid, _, ok := parseAttemptID(id); ok {
			seen[uid] = true
		}
	}
	uids := make([]string, 0, len(seen))
	for uid := range seen {
		uids = append(uids, uid)
	}
	sort.Strings(uids)
	return uids, nil
}

// pins are the ids of the pod's attempts that have something at the path of a namespace.
func (n *Network) pins(uid string) ([]string, error) {
	names, err := listDir(n.o.NetnsDir)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	return slices.DeleteFunc(names, func(id string) bool {
		owner, _, ok := parseAttemptID(id)
		return !ok || owner != uid
	}), nil
}

// found are the ids that have a CNI result or an address in the files below the state directory, with the
// configuration that they were added with where that is known.
func (n *Network) found() (map[string]string, error) {
	ids := map[string]string{}
	networks, err := listDir(n.o.ipamDir())
	if err != nil {
		return nil, err
	}
	for _, network := range networks {
		dir := filepath.Join(n.o.ipamDir(), network)
		files, err := listDir(dir)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if net.ParseIP(file) == nil {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue // given back meanwhile
			}
			id, _, _ := strings.Cut(string(b), "\n")
			ids[strings.TrimSpace(id)] = ""
		}
	}
	results, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		ids[r.ContainerID] = string(r.Config)
	}
	return ids, nil
}
