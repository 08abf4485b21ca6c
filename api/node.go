package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"

	"podd/store"
)

const (
	nodeCheck  = 10 * time.Second // upstream's nodeStatusUpdateFrequency
	nodeReport = 5 * time.Minute  // and nodeStatusReportFrequency: an unchanged status is written this often
	maxPods    = 110
)

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// ensureNode makes the node object, and its status what this host is now.
func (s *Server) ensureNode(ctx context.Context) error {
	labels := map[string]string{v1.LabelHostname: s.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH}
	node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: s.NodeName, Labels: labels}}
	_, err := s.registry.nodes.Create(clusterScope(ctx), node, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make node %s: %w", s.NodeName, err)
	}
	return s.updateNode(ctx)
}

// keepNode keeps the node's status current until ctx is done.
func (s *Server) keepNode(ctx context.Context) {
	tick := time.NewTicker(nodeCheck)
	defer tick.Stop()
	reported, healthy := time.Now(), s.Runtime.Healthy() == nil
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if h := s.Runtime.Healthy() == nil; h == healthy && now.Sub(reported) < nodeReport {
				continue
			}
			if err := s.updateNode(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				s.Log.Warn("node status is old", "error", err)
				continue
			}
			reported, healthy = now, s.Runtime.Healthy() == nil
		}
	}
}

// updateNode writes the status; it need not be durable, since it is found out again.
func (s *Server) updateNode(ctx context.Context) error {
	ctx = store.Lazily(clusterScope(ctx))
	obj, err := s.registry.nodes.Get(ctx, s.NodeName, &metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", s.NodeName, err)
	}
	old := &v1.Node{}
	if err := legacyscheme.Scheme.Convert(obj, old, nil); err != nil {
		return fmt.Errorf("read node %s: %w", s.NodeName, err)
	}
	old.Status = s.nodeStatus(old.Status, metav1.Now())
	node := &core.Node{}
	if err := legacyscheme.Scheme.Convert(old, node, nil); err != nil {
		return fmt.Errorf("make node %s: %w", s.NodeName, err)
	}
	node.ResourceVersion = "" // whatever it is now
	_, _, err = s.registry.nodeStatus.Update(ctx, s.NodeName, rest.DefaultUpdatedObjectInfo(node), rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update node %s: %w", s.NodeName, err)
	}
	return nil
}

func (s *Server) nodeStatus(old v1.NodeStatus, now metav1.Time) v1.NodeStatus {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	capacity := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	var addresses []v1.NodeAddress
	for _, ip := range s.NodeIPs {
		if net.ParseIP(ip) != nil {
			addresses = append(addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
		}
	}
	addresses = append(addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: s.NodeName})
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "PoddReady",
		Message: "podd runs pods", LastHeartbeatTime: now, LastTransitionTime: now}
	if err := s.Runtime.Healthy(); err != nil {
		ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, "PoddNotReady", err.Error()
	}
	for _, c := range old.Conditions {
		if c.Type == v1.NodeReady && c.Status == ready.Status {
			ready.LastTransitionTime = c.LastTransitionTime
		}
	}
	next := *old.DeepCopy()
	next.Capacity, next.Allocatable = capacity, capacity.DeepCopy()
	next.Addresses, next.Conditions = addresses, []v1.NodeCondition{ready}
	next.NodeInfo = s.nodeInfo()
	return next
}

func (s *Server) nodeInfo() v1.NodeSystemInfo {
	var uname unix.Utsname
	_ = unix.Uname(&uname)
	containerd := "unknown"
	if s.Containerd != nil {
		if v := s.Containerd(); v != "" {
			containerd = v
		}
	}
	return v1.NodeSystemInfo{
		MachineID:  firstLine("/etc/machine-id"),
		SystemUUID: firstLine("/sys/class/dmi/id/product_uuid"),
		BootID:     firstLine("/proc/sys/kernel/random/boot_id"), KernelVersion: unix.ByteSliceToString(uname.Release[:]),
		OSImage: osImage(), ContainerRuntimeVersion: "containerd://" + containerd, KubeletVersion: s.gitVersion(),
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
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
