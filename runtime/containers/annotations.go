package containers

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Shims other than runc's know which sandbox a container belongs to, and what else concerns them, by these annotations of
// the CRI plugin (containerd internal/cri/annotations). All values are podd's own: no annotation of a pod is among them.
const (
	criContainerType    = "io.kubernetes.cri.container-type" // "sandbox" or "container"
	criSandboxID        = "io.kubernetes.cri.sandbox-id"
	criSandboxName      = "io.kubernetes.cri.sandbox-name"
	criSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	criSandboxUID       = "io.kubernetes.cri.sandbox-uid"
	criContainerName    = "io.kubernetes.cri.container-name"
	criImageName        = "io.kubernetes.cri.image-name"
	criCPUPeriod        = "io.kubernetes.cri.sandbox-cpu-period"
	criCPUQuota         = "io.kubernetes.cri.sandbox-cpu-quota"
	criCPUShares        = "io.kubernetes.cri.sandbox-cpu-shares"
	criMemory           = "io.kubernetes.cri.sandbox-memory"
)

func podAnnotations(pod *v1.Pod, sandboxID, kind string) map[string]string {
	return map[string]string{
		criContainerType: kind, criSandboxID: sandboxID,
		criSandboxName: pod.Name, criSandboxNamespace: pod.Namespace, criSandboxUID: string(pod.UID),
	}
}

func memberAnnotations(c Config) map[string]string {
	a := podAnnotations(c.Pod, c.Sandbox.ID, "container")
	a[criContainerName], a[criImageName] = c.Container.Name, c.Image.Name
	return a
}

// sandboxAnnotations tell, besides, how large the containers of the pod may become together, for a shim that has to make a
// machine for them. What has no limit is 0.
func sandboxAnnotations(c SandboxConfig) map[string]string {
	a := podAnnotations(c.Pod, c.ID, "sandbox")
	limits := resourcehelper.PodLimits(c.Pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	requests := resourcehelper.PodRequests(c.Pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	quota, period := int64(0), uint64(quotaPeriod)
	if milli := limits.Cpu().MilliValue(); milli > 0 {
		quota, period = CPUQuota(milli)
	}
	a[criCPUQuota], a[criCPUPeriod] = strconv.FormatInt(quota, 10), strconv.FormatUint(period, 10)
	a[criCPUShares] = strconv.FormatUint(CPUShares(requests.Cpu().MilliValue()), 10)
	a[criMemory] = strconv.FormatInt(limits.Memory().Value(), 10)
	return a
}
