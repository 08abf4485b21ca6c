package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/coordination"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/kubelet/events"
	nodestorage "k8s.io/kubernetes/pkg/registry/core/node/storage"

	"podd/api/pressure"
	"podd/store"

	apiruntime "k8s.io/apimachinery/pkg/runtime"
)

// Host is what the node object and the kubelet's paths say of this podd beside what the host itself tells.
type Host struct {
	Addresses     func() []string               // as NodeIPs, at this time; nil: they never change
	BootID        string                        // of this boot; the kernel's when empty
	StateDir      string                        // on the file system that pods may use
	MaxPods       int                           // pods that may be here at the same time; 0 = MaxPods
	Pressure      func() []v1.NodeConditionType // conditions of the host that are true; nil: none ever is
	Configuration any                           // of podd, for /configz; encoded as JSON
	Handlers      []string                      // OCI runtimes beside the default one, by the names of their handlers

	RecursiveReadOnly bool                     // a mount can be made read-only with all that is mounted below it
	UserNamespaces    func() (can, known bool) // whether pods can have users of their own, if that is known yet; nil: they cannot
}

const (
	nodeCheck  = 10 * time.Second // upstream's nodeStatusUpdateFrequency
	readyCheck = time.Second      // in its place while the node is not ready
	nodeReport = 5 * time.Minute  // and nodeStatusReportFrequency: an unchanged status is written this often
	imageCheck = 5 * time.Minute  // how often the images are looked at when podd has changed none
	MaxPods    = 110              // upstream's default of maxPods
	maxImages  = 50               // upstream's nodeStatusMaxImages
	leaseTime  = 40               // seconds; upstream's nodeLeaseDurationSeconds
)

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// ownLabels are those that say what the host is. Others are the user's.
func (s *Server) ownLabels() map[string]string {
	return map[string]string{
		v1.LabelHostname: s.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// ensureNode makes the node object, or gives it back the labels that say what the host is. All else that users have
// written there stays. Then its status is what this host is now.
func (s *Server) ensureNode(ctx context.Context) error {
	node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: s.NodeName, Labels: s.ownLabels()}}
	_, err := s.registry.nodes.Create(clusterScope(ctx), node, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = s.labelNode(ctx)
	}
	if err != nil {
		return fmt.Errorf("make node %s: %w", s.NodeName, err)
	}
	s.NodeEvent(v1.EventTypeNormal, events.StartingKubelet, "Starting podd.")
	return s.updateNode(ctx, nil, true)
}

func (s *Server) labelNode(ctx context.Context) error {
	obj, err := s.registry.nodes.Get(clusterScope(ctx), s.NodeName, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	node, ok := obj.(*core.Node)
	if !ok {
		return fmt.Errorf("node is a %T", obj)
	}
	node = node.DeepCopy()
	before := len(node.Labels)
	missing := s.ownLabels()
	maps.DeleteFunc(missing, func(k, v string) bool { return node.Labels[k] == v })
	if len(missing) == 0 {
		return nil
	}
	if before == 0 {
		node.Labels = map[string]string{}
	}
	maps.Copy(node.Labels, missing)
	_, _, err = s.registry.nodes.Update(clusterScope(ctx), s.NodeName, rest.DefaultUpdatedObjectInfo(node), rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return err
}

// node is the node object as it is stored.
func (s *Server) node(ctx context.Context) (*v1.Node, error) {
	obj, err := s.registry.nodes.Get(clusterScope(ctx), s.NodeName, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	node := &v1.Node{}
	if err := legacyscheme.Scheme.Convert(obj, node, nil); err != nil {
		return nil, fmt.Errorf("read node %s: %w", s.NodeName, err)
	}
	return node, nil
}

// keepNode keeps the node's status and its lease current until ctx is done.
func (s *Server) keepNode(ctx context.Context) {
	defer s.followStarts()()
	var images []v1.ContainerImage
	var looked time.Time
	complain := func(what string, err error) {
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			s.Log.Warn(what, "error", err)
		}
	}
	reported := time.Now()
	complain("the node has no lease", s.renewLease(ctx, reported))
	for now := reported; ; {
		if (now.Sub(looked) >= imageCheck || s.imagesOld.Load()) && s.Runtime.Healthy() == nil {
			s.imagesOld.Store(false)
			if found, err := s.nodeImages(ctx); err == nil {
				images, looked = found, now
			} else {
				complain("the node's images are old", err)
			}
		}
		due := now.Sub(reported) >= nodeReport
		complain("node status is old", s.updateNode(ctx, images, due))
		if due {
			reported = now
		}
		wait := nodeCheck
		if s.Runtime.Healthy() != nil {
			wait = readyCheck
		}
		select {
		case <-ctx.Done():
			return
		case now = <-time.After(wait):
		case <-s.pressed:
			now = time.Now()
		}
		complain("the node's lease is old", s.renewLease(ctx, now))
	}
}

// updateNode writes the status if it is due or something in it has changed. It need not be durable, since it is found out
// again.
func (s *Server) updateNode(ctx context.Context, images []v1.ContainerImage, due bool) error {
	s.noding.Lock()
	defer s.noding.Unlock()
	old, err := s.node(ctx)
	if err != nil {
		return fmt.Errorf("get node %s: %w", s.NodeName, err)
	}
	next := s.nodeStatus(old.Status, metav1.Now(), due)
	if images != nil {
		next.Images = images
	}
	if err := s.taintNode(ctx, old.Spec.Taints, next.Conditions); err != nil {
		return fmt.Errorf("taint node %s: %w", s.NodeName, err)
	}
	if !due && sameNode(old.Status, next) {
		return nil
	}
	before := old.Status
	old.Status = next
	node := &core.Node{}
	if err := legacyscheme.Scheme.Convert(old, node, nil); err != nil {
		return fmt.Errorf("make node %s: %w", s.NodeName, err)
	}
	// Only the status is podd's: labels and annotations of this moment stay, which upstream's update of the status would take
	// from what it is given.
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, current runtimeObject) (runtimeObject, error) {
		now, ok := current.DeepCopyObject().(*core.Node)
		if !ok {
			return nil, fmt.Errorf("not a node: %T", current)
		}
		now.Status = node.Status
		return now, nil
	})
	_, _, err = s.registry.nodeStatus.Update(store.Lazily(clusterScope(ctx)), s.NodeName, info,
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update node %s: %w", s.NodeName, err)
	}
	s.nodeNews(before, next)
	return nil
}

// ImagesChanged says that the host has other images now.
func (s *Server) ImagesChanged() { s.imagesOld.Store(true) }

// PressureChanged says that Host.Pressure tells something else now. It does not block.
func (s *Server) PressureChanged() {
	select {
	case s.pressed <- struct{}{}:
	default:
	}
}

// taintNode has the node taken for new pods only by those that tolerate its conditions
// (pkg/controller/nodelifecycle/node_lifecycle_controller.go doNoScheduleTaintingPass). All other taints are the users'.
func (s *Server) taintNode(ctx context.Context, old []v1.Taint, conditions []v1.NodeCondition) error {
	same := true
	change := func(taints []core.Taint) []core.Taint {
		for _, c := range conditions {
			key, ok := pressure.Taints[c.Type]
			if !ok {
				continue
			}
			is := func(t core.Taint) bool { return t.Key == key && t.Effect == core.TaintEffectNoSchedule }
			switch has := slices.ContainsFunc(taints, is); {
			case c.Status == v1.ConditionTrue && !has:
				added := metav1.Now().Rfc3339Copy()
				taints, same = append(taints, core.Taint{Key: key, Effect: core.TaintEffectNoSchedule, TimeAdded: &added}), false
			case c.Status != v1.ConditionTrue && has:
				taints, same = slices.DeleteFunc(taints, is), false
			}
		}
		return taints
	}
	var had []core.Taint
	for _, t := range old {
		had = append(had, core.Taint{Key: t.Key, Effect: core.TaintEffect(t.Effect)})
	}
	if change(had); same {
		return nil
	}
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, current runtimeObject) (runtimeObject, error) {
		node, ok := current.DeepCopyObject().(*core.Node)
		if !ok {
			return nil, fmt.Errorf("not a node: %T", current)
		}
		node.Spec.Taints = change(node.Spec.Taints)
		return node, nil
	})
	_, _, err := s.registry.nodes.Update(clusterScope(ctx), s.NodeName, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc,
		false, &metav1.UpdateOptions{})
	return err
}

// nodeNews is the events that a change of the node's status is worth, in upstream's words (pkg/kubelet/nodestatus/setters.go).
func (s *Server) nodeNews(was, is v1.NodeStatus) {
	if old, boot := was.NodeInfo.BootID, is.NodeInfo.BootID; old != "" && old != boot {
		s.NodeEvent(v1.EventTypeWarning, events.NodeRebooted, "Node %s has been rebooted, boot id: %s", s.NodeName, boot)
	}
	reasons := map[v1.NodeConditionType][2]string{ // when it is true, and when it is not
		v1.NodeReady:          {events.NodeReady, events.NodeNotReady},
		v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
	}
	for _, c := range is.Conditions {
		pair, own := reasons[c.Type]
		i := slices.IndexFunc(was.Conditions, func(old v1.NodeCondition) bool { return old.Type == c.Type })
		if !own || i >= 0 && was.Conditions[i].Status == c.Status || i < 0 && c.Type == v1.NodeReady {
			continue
		}
		reason := pair[1]
		if c.Status == v1.ConditionTrue {
			reason = pair[0]
		}
		s.NodeEvent(v1.EventTypeNormal, reason, "Node %s status is now: %s", s.NodeName, reason)
	}
}

// sameNode tells whether two statuses say the same, whenever they said it.
func sameNode(a, b v1.NodeStatus) bool {
	b = *b.DeepCopy()
	for i := range b.Conditions {
		for _, c := range a.Conditions {
			if c.Type == b.Conditions[i].Type {
				b.Conditions[i].LastHeartbeatTime = c.LastHeartbeatTime
			}
		}
	}
	return equality.Semantic.DeepEqual(a, b)
}

func (s *Server) nodeStatus(old v1.NodeStatus, now metav1.Time, due bool) v1.NodeStatus {
	facts := s.hostFacts()
	next := *old.DeepCopy()
	next.Capacity = facts.capacity()
	next.Allocatable = facts.allocatable()
	next.Addresses = s.nodeAddresses()
	next.Conditions = s.nodeConditions(old.Conditions, now)
	next.NodeInfo = machineInfo()
	next.NodeInfo.BootID = cmp.Or(s.Host.BootID, next.NodeInfo.BootID)
	next.NodeInfo.KubeletVersion, next.NodeInfo.ContainerRuntimeVersion = s.gitVersion(), old.NodeInfo.ContainerRuntimeVersion
	if due || next.NodeInfo.ContainerRuntimeVersion == "" || next.NodeInfo.ContainerRuntimeVersion == containerdUnknown {
		next.NodeInfo.ContainerRuntimeVersion = s.containerdVersion()
	}
	if facts.swap > 0 {
		size := int64(facts.swap)
		next.NodeInfo.Swap = &v1.NodeSwapStatus{Capacity: &size}
	}
	next.DaemonEndpoints = v1.NodeDaemonEndpoints{}
	if address, ok := s.address.Load().(net.Addr); ok {
		if tcp, ok := address.(*net.TCPAddr); ok {
			next.DaemonEndpoints.KubeletEndpoint.Port = int32(tcp.Port)
		}
	}
	users, recursive := usersBefore(old), s.Host.RecursiveReadOnly
	if s.Host.UserNamespaces != nil {
		if can, known := s.Host.UserNamespaces(); known {
			users = can
		}
	}
	next.RuntimeHandlers = []v1.NodeRuntimeHandler{{Name: "", Features: &v1.NodeRuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users}}}
	runc := next.RuntimeHandlers[0]
	runc.Name = defaultHandler
	next.RuntimeHandlers = append(next.RuntimeHandlers, runc)
	strict := true
	next.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &strict}
	for _, name := range s.Host.Handlers { // what they can do is not known
		next.RuntimeHandlers = append(next.RuntimeHandlers, v1.NodeRuntimeHandler{Name: name})
	}
	return next
}

// usersBefore is what a status says of user namespaces.
func usersBefore(old v1.NodeStatus) bool {
	return len(old.RuntimeHandlers) > 0 && old.RuntimeHandlers[0].Features != nil && old.RuntimeHandlers[0].Features.UserNamespaces != nil &&
		*old.RuntimeHandlers[0].Features.UserNamespaces
}

func (s *Server) nodeAddresses() []v1.NodeAddress {
	ips := s.NodeIPs
	if s.Host.Addresses != nil {
		ips = s.Host.Addresses()
	}
	var addresses []v1.NodeAddress
	for _, ip := range ips {
		if net.ParseIP(ip) != nil {
			addresses = append(addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
		}
	}
	return append(addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: s.NodeName})
}

// hostFacts is what there is of everything on this host, in bytes.
type hostFacts struct {
	memory, swap, disk uint64
	pods               int
	hugepages          map[v1.ResourceName]resource.Quantity
}

func (s *Server) hostFacts() hostFacts {
	f := hostFacts{pods: cmp.Or(s.Host.MaxPods, MaxPods)}
	info, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		var kb uint64
		if _, err := fmt.Sscan(value, &kb); err != nil {
			continue
		}
		switch key {
		case "MemTotal":
			f.memory = kb << 10
		case "SwapTotal":
			f.swap = kb << 10
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cmp.Or(s.Host.StateDir, "/"), &st); err == nil {
		f.disk = st.Blocks * uint64(st.Bsize)
	}
	f.hugepages = map[v1.ResourceName]resource.Quantity{}
	sizes, _ := os.ReadDir("/sys/kernel/mm/hugepages")
	for _, entry := range sizes {
		var kb, count int64
		if _, err := fmt.Sscanf(entry.Name(), "hugepages-%dkB", &kb); err != nil {
			continue
		}
		_, _ = fmt.Sscan(firstLine("/sys/kernel/mm/hugepages/"+entry.Name()+"/nr_hugepages"), &count)
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		f.hugepages[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(count*kb<<10, resource.BinarySI)
	}
	return f
}

func (f hostFacts) capacity() v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(int64(f.memory), resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(f.disk), resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(int64(f.pods), resource.DecimalSI),
	}
	maps.Copy(out, f.hugepages)
	return out
}

// allocatable is the capacity, of the memory without that of the huge pages (pkg/kubelet/nodestatus/setters.go).
func (f hostFacts) allocatable() v1.ResourceList {
	out := f.capacity()
	memory := out[v1.ResourceMemory]
	for _, pages := range f.hugepages {
		memory.Sub(pages)
	}
	if memory.Sign() < 0 {
		memory.Set(0)
	}
	out[v1.ResourceMemory] = memory
	return out
}

func (s *Server) nodeConditions(old []v1.NodeCondition, now metav1.Time) []v1.NodeCondition {
	var pressed []v1.NodeConditionType
	if s.Host.Pressure != nil {
		pressed = s.Host.Pressure()
	}
	under := func(kind v1.NodeConditionType, good, bad, of string) v1.NodeCondition {
		if slices.Contains(pressed, kind) {
			return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: bad, Message: "the host has too little " + of}
		}
		return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: good, Message: "the host has sufficient " + of + " available"}
	}
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "PoddReady", Message: "podd runs pods"}
	if err := s.Runtime.Healthy(); err != nil {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "PoddNotReady", err.Error()
	}
	next := []v1.NodeCondition{
		under(v1.NodeMemoryPressure, "KubeletHasSufficientMemory", "KubeletHasInsufficientMemory", "memory"),
		under(v1.NodeDiskPressure, "KubeletHasNoDiskPressure", "KubeletHasDiskPressure", "disk space"),
		under(v1.NodePIDPressure, "KubeletHasSufficientPID", "KubeletHasInsufficientPID", "process ids"),
		ready,
	}
	for i := range next {
		next[i].LastHeartbeatTime, next[i].LastTransitionTime = now, now
		for _, c := range old {
			if c.Type == next[i].Type && c.Status == next[i].Status {
				next[i].LastTransitionTime = c.LastTransitionTime
			}
		}
	}
	for _, c := range old { // others' conditions are theirs
		if !slices.ContainsFunc(next, func(n v1.NodeCondition) bool { return n.Type == c.Type }) {
			next = append(next, c)
		}
	}
	return next
}

// nodeImages is the biggest images, each with all its names.
func (s *Server) nodeImages(ctx context.Context) ([]v1.ContainerImage, error) {
	found, err := s.Runtime.Images(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*v1.ContainerImage{}
	for _, i := range found {
		image := byID[i.ID]
		if image == nil {
			image = &v1.ContainerImage{}
			byID[i.ID] = image
		}
		image.SizeBytes = max(image.SizeBytes, i.Size)
		image.Names = append(image.Names, i.Name)
	}
	images := make([]v1.ContainerImage, 0, len(byID))
	for _, i := range byID {
		slices.Sort(i.Names)
		i.Names = i.Names[:min(len(i.Names), 5)] // upstream's maxNamesPerImageInNodeStatus
		images = append(images, *i)
	}
	slices.SortFunc(images, func(a, b v1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), slices.Compare(a.Names, b.Names))
	})
	return images[:min(len(images), maxImages)], nil
}

// renewLease says that podd lives. It is not worth a write to the disk: after a crash it is said anew.
func (s *Server) renewLease(ctx context.Context, now time.Time) error {
	ctx = store.Sometime(request.WithNamespace(ctx, v1.NamespaceNodeLease))
	seconds, at := int32(leaseTime), metav1.NewMicroTime(now)
	obj, err := s.registry.leases.Get(ctx, s.NodeName, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: s.NodeName, Namespace: v1.NamespaceNodeLease}}
		if node, err := s.node(ctx); err == nil {
			lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
		}
		lease.Spec = coordination.LeaseSpec{HolderIdentity: &s.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &at}
		_, err = s.registry.leases.Create(ctx, lease, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease, ok := obj.(*coordination.Lease)
	if !ok {
		return fmt.Errorf("renew lease: it is a %T", obj)
	}
	lease = lease.DeepCopy()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &s.NodeName, &seconds, &at
	_, _, err = s.registry.leases.Update(ctx, s.NodeName, rest.DefaultUpdatedObjectInfo(lease), rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return err
}

// ownNode keeps this host's node object from being deleted: the host is there, and with it its node.
type ownNode struct {
	*nodestorage.REST
	name string
}

func (o *ownNode) refuse() error {
	return apierrors.NewForbidden(v1.Resource("nodes"), o.name, errors.New("this is the host that podd runs on: it cannot be deleted"))
}

// Delete refuses this host's node.
func (o *ownNode) Delete(ctx context.Context, name string, valid rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (
	apiruntime.Object, bool, error) {
	if name == o.name {
		return nil, false, o.refuse()
	}
	return o.REST.Delete(ctx, name, valid, opts)
}

// DeleteCollection refuses a selection with this host's node in it.
func (o *ownNode) DeleteCollection(ctx context.Context, valid rest.ValidateObjectFunc, opts *metav1.DeleteOptions,
	list *internalversion.ListOptions) (apiruntime.Object, error) {
	found, err := o.List(ctx, list)
	if err != nil {
		return nil, err
	}
	if nodes, ok := found.(*core.NodeList); ok && slices.ContainsFunc(nodes.Items, func(n core.Node) bool { return n.Name == o.name }) {
		return nil, o.refuse()
	}
	return o.REST.DeleteCollection(ctx, valid, opts, list)
}

// configuration is what /configz says.
func (s *Server) configuration() any {
	return s.Host.Configuration
}

const containerdUnknown = "containerd://unknown"

// containerdVersion asks containerd.
func (s *Server) containerdVersion() string {
	if s.Containerd == nil {
		return containerdUnknown
	}
	if v := s.Containerd(); v != "" {
		return "containerd://" + v
	}
	return containerdUnknown
}

// machineInfo is what the host says of itself.
func machineInfo() v1.NodeSystemInfo {
	var uname unix.Utsname
	_ = unix.Uname(&uname)
	return v1.NodeSystemInfo{
		MachineID:  firstLine("/etc/machine-id"),
		SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID:     firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: unix.ByteSliceToString(uname.Release[:]),
		OSImage: osImage(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(bytes.TrimSpace(line))
}

// osImage is the name of the distribution.
func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return runtime.GOOS
}
