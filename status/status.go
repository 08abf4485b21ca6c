package status

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Of is the status of pod as the facts show it, never derived from the status before. Transition times stay zero and
// conditions of others are left out: Stamp puts both in. Of pod.Status only what is not podd's is read: the conditions
// that readiness gates name, and the QoS class that the API fixed at creation.
func Of(pod *v1.Pod, f Facts) v1.PodStatus {
	spec := pod
	pod = Admitted(spec, f)
	s := v1.PodStatus{
		ObservedGeneration: pod.Generation,
		QOSClass:           qos.GetPodQOS(pod),
	}
	if f.Allocated != nil {
		s.AllocatedResources = resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
		s.Resources = whole(pod, f)
	}
	if !f.Started.IsZero() {
		t := metav1.NewTime(f.Started)
		s.StartTime = &t
	}
	addresses(&s, pod, f)
	verdict := published(pod, f)
	if verdict == nil || !refused(*verdict, f) {
		s.InitContainerStatuses = initStatuses(pod, f)
		s.ContainerStatuses = regularStatuses(pod, f)
		s.EphemeralContainerStatuses = ephemeralStatuses(pod, f)
	}
	switch {
	case verdict != nil:
		s.Phase, s.Reason, s.Message = verdict.Phase, verdict.Reason, verdict.Message
		terminate(&s, pod)
	case !f.Reachable && begun(f):
		s.Phase, s.Reason = v1.PodUnknown, "RuntimeUnreachable"
		s.Message = "containerd does not answer: the container states are the last known ones"
	default:
		s.Phase = livingPhase(pod, f, s)
	}
	s.Conditions = conditions(spec, f, s)
	return s
}

// published is the verdict that may be shown: one that is recorded, or that nothing known later can change, nor forgotten
// when podd is started again while containerd does not answer.
func published(pod *v1.Pod, f Facts) *Verdict {
	if f.Verdict != nil || HasSidecars(pod) {
		return f.Verdict
	}
	return completed(pod, f)
}

// livingPhase is the phase of a pod without a verdict. A terminal one is held back until its exits are recorded and
// nothing can run any more (pkg/kubelet/status/status_manager.go mergePodStatus).
func livingPhase(pod *v1.Pod, f Facts, s v1.PodStatus) v1.PodPhase {
	phase := phaseOf(pod, append(s.InitContainerStatuses, s.ContainerStatuses...), false, initialized(pod, f))
	if phase != v1.PodSucceeded && phase != v1.PodFailed {
		return phase
	}
	if anyStarted(s.ContainerStatuses) {
		return v1.PodRunning
	}
	return v1.PodPending
}

// begun tells whether there may be something of the pod that only containerd knows the state of.
func begun(f Facts) bool {
	return len(f.Sandboxes) > 0 || len(f.Containers) > 0 || f.Network.Attached || f.Network.Ready
}

// addresses puts in the host's addresses and the pod's.
func addresses(s *v1.PodStatus, pod *v1.Pod, f Facts) {
	for _, ip := range f.Node.IPs[:min(2, len(f.Node.IPs))] {
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	for _, ip := range PodIPs(pod, f.Network.IPs, f.Node.IPs) {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// PodIPs are the addresses of pod whose network has ips, on a host that has host: the family of the host's primary one
// first, at most one per family (pkg/kubelet/kubelet_pods.go sortPodIPs).
func PodIPs(pod *v1.Pod, ips, host []string) []string {
	if pod.Spec.HostNetwork {
		ips = host
	}
	var out []string
	primary4 := len(host) == 0 || is4(host[0])
	for _, want4 := range []bool{primary4, !primary4} {
		for _, ip := range ips {
			if is4(ip) == want4 {
				out = append(out, ip)
				break
			}
		}
	}
	return out
}

func is4(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && a.Unmap().Is4()
}
