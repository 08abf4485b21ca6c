package fields

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

var (
	honoured = Rule{Verdict: Honoured}
	notYet   = Rule{Verdict: NotYet}
	onHost   = Rule{Verdict: NotYet, Why: "mount it on the host, and use a hostPath"}
	noCSI    = Rule{Verdict: NotYet, Why: "a CSI driver runs only where a cluster registers it: use a hostPath, nfs or a persistentVolumeClaim"}
)

func refused(why string) Rule { return Rule{Verdict: Refused, Why: why} }

// only honours some values of a field of a basic type, or a pointer to one.
func only[T comparable](values ...T) Rule {
	return Rule{Verdict: Honoured, allow: func(v, _ reflect.Value) bool {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		t, ok := v.Interface().(T)
		return ok && slices.Contains(values, t)
	}}
}

// medium tells whether podd knows the medium of an emptyDir. The size of huge pages is checked against what the pod asks
// for when the volume is made, as upstream does.
func medium(v, _ reflect.Value) bool {
	m := v1.StorageMedium(v.String())
	if m == v1.StorageMediumDefault || m == v1.StorageMediumMemory || m == v1.StorageMediumHugePages {
		return true
	}
	size, err := v1helper.HugePageSizeFromMedium(m)
	return err == nil && size.Sign() > 0
}

var hugePages = regexp.MustCompile(`^huge.*?([1-9][0-9]*) ?([mg])`)

// nearMedium is the medium of an emptyDir that is written like value.
func nearMedium(value string) string {
	value = strings.ToLower(value)
	size := hugePages.FindStringSubmatch(value)
	switch {
	case size != nil:
		return "HugePages-" + size[1] + strings.ToUpper(size[2]) + "i"
	case strings.HasPrefix(value, "huge"):
		return "HugePages"
	case strings.HasPrefix(value, "m"), value == "ram", value == "tmpfs":
		return "Memory"
	}
	return ""
}

var securityAnnotations = []string{
	"container.apparmor.security.beta.kubernetes.io/",
	"container.seccomp.security.alpha.kubernetes.io/",
	"seccomp.security.alpha.kubernetes.io/",
}

var resources = Rule{Verdict: Honoured, keys: []string{string(v1.ResourceCPU), string(v1.ResourceMemory), string(v1.ResourceEphemeralStorage), v1.ResourceHugePagesPrefix}}

// podResources are those of a pod as a whole.
var podResources = Rule{Verdict: Honoured, keys: []string{string(v1.ResourceCPU), string(v1.ResourceMemory), v1.ResourceHugePagesPrefix}}

var seccompTypes = only(v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined, v1.SeccompProfileTypeLocalhost)

const cluster = "needs a cluster"

// table has a row for every field. A row speaks for all that is below it, except that structs and lists without a row
// are looked into.
var table = withOthers(map[string]Rule{
	"metadata.name": honoured, "metadata.generateName": honoured, "metadata.namespace": honoured, "metadata.uid": honoured,
	"metadata.selfLink": honoured, "metadata.resourceVersion": honoured, "metadata.generation": honoured,
	"metadata.creationTimestamp": honoured, "metadata.deletionTimestamp": honoured,
	"metadata.deletionGracePeriodSeconds": honoured, "metadata.labels": honoured, "metadata.annotations": honoured,
	"metadata.finalizers": honoured, "metadata.managedFields": honoured, "metadata.ownerReferences": honoured,

	"spec.restartPolicy": honoured, "spec.terminationGracePeriodSeconds": honoured, "spec.nodeName": honoured,
	"spec.dnsPolicy": honoured, "spec.dnsConfig.nameservers": honoured, "spec.dnsConfig.searches": honoured,
	"spec.dnsConfig.options[].name": honoured, "spec.dnsConfig.options[].value": honoured,
	"spec.hostNetwork": honoured, "spec.hostPID": honoured, "spec.hostIPC": honoured, "spec.shareProcessNamespace": honoured,
	"spec.hostname": honoured, "spec.hostAliases[].ip": honoured, "spec.hostAliases[].hostnames": honoured,

	"spec.enableServiceLinks":           honoured,
	"spec.automountServiceAccountToken": honoured,
	"spec.hostUsers":                    honoured,
	"spec.setHostnameAsFQDN":            honoured,

	"spec.activeDeadlineSeconds": honoured, "spec.readinessGates": honoured, "spec.os.name": honoured,
	"spec.imagePullSecrets": honoured, "spec.subdomain": honoured,
	"spec.resources.limits": podResources, "spec.resources.requests": podResources, "spec.resources.claims": refused(cluster),
	"spec.hostnameOverride": honoured,
	"spec.resourceClaims":   refused(cluster), "spec.schedulingGroup": refused(cluster),

	"spec.serviceAccountName": honoured, "spec.serviceAccount": honoured, "spec.runtimeClassName": honoured,
	"spec.overhead": honoured, "spec.priorityClassName": honoured, "spec.priority": honoured, "spec.preemptionPolicy": honoured,

	// Where the pod goes: there is one node. What is only preferred has nothing to choose from.
	"spec.schedulerName": honoured, "spec.schedulingGates": honoured, "spec.nodeSelector": honoured, "spec.tolerations": honoured,
	"spec.affinity.nodeAffinity": honoured,
	"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution":      honoured,
	"spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution":     honoured,
	"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution":  honoured,
	"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution": honoured,
	"spec.topologySpreadConstraints[].maxSkew":                                      honoured,
	"spec.topologySpreadConstraints[].topologyKey":                                  honoured,
	"spec.topologySpreadConstraints[].whenUnsatisfiable":                            honoured,
	"spec.topologySpreadConstraints[].labelSelector":                                honoured,
	"spec.topologySpreadConstraints[].minDomains":                                   honoured,
	"spec.topologySpreadConstraints[].nodeAffinityPolicy":                           honoured,
	"spec.topologySpreadConstraints[].nodeTaintsPolicy":                             honoured,
	"spec.topologySpreadConstraints[].matchLabelKeys":                               honoured,

	"spec.securityContext.runAsUser": honoured, "spec.securityContext.runAsGroup": honoured,
	"spec.securityContext.runAsNonRoot": honoured, "spec.securityContext.supplementalGroups": honoured,
	"spec.securityContext.fsGroup":                         honoured,
	"spec.securityContext.seccompProfile.type":             seccompTypes,
	"spec.securityContext.seccompProfile.localhostProfile": honoured,
	"spec.securityContext.supplementalGroupsPolicy":        honoured,
	"spec.securityContext.sysctls":                         honoured, "spec.securityContext.fsGroupChangePolicy": honoured,
	"spec.securityContext.appArmorProfile": notYet, "spec.securityContext.seLinuxOptions": notYet,
	"spec.securityContext.seLinuxChangePolicy": notYet,
	"spec.securityContext.windowsOptions":      refused("this is a Linux host"),

	"spec.containers[].name": honoured, "spec.containers[].image": honoured, "spec.containers[].command": honoured,
	"spec.containers[].args": honoured, "spec.containers[].workingDir": honoured, "spec.containers[].imagePullPolicy": honoured,
	"spec.containers[].ports[].name": honoured, "spec.containers[].ports[].containerPort": honoured,
	"spec.containers[].ports[].protocol": honoured, "spec.containers[].ports[].hostPort": honoured,
	"spec.containers[].ports[].hostIP": honoured,
	"spec.containers[].env[].name":     honoured, "spec.containers[].env[].value": honoured,
	"spec.containers[].env[].valueFrom": honoured, "spec.containers[].envFrom": honoured,
	"spec.containers[].resources.limits": resources, "spec.containers[].resources.requests": resources,
	"spec.containers[].resources.claims":             refused(cluster),
	"spec.containers[].resizePolicy[].resourceName":  honoured,
	"spec.containers[].resizePolicy[].restartPolicy": honoured,
	"spec.containers[].restartPolicy":                honoured, "spec.containers[].restartPolicyRules": honoured,
	"spec.containers[].volumeMounts[].name": honoured, "spec.containers[].volumeMounts[].mountPath": honoured,
	"spec.containers[].volumeMounts[].readOnly":          honoured,
	"spec.containers[].volumeMounts[].recursiveReadOnly": honoured, "spec.containers[].volumeMounts[].subPath": honoured,
	"spec.containers[].volumeMounts[].subPathExpr": honoured, "spec.containers[].volumeMounts[].mountPropagation": honoured,
	"spec.containers[].volumeDevices": honoured,
	"spec.containers[].livenessProbe": honoured, "spec.containers[].readinessProbe": honoured,
	"spec.containers[].startupProbe":        honoured,
	"spec.containers[].lifecycle.postStart": honoured, "spec.containers[].lifecycle.preStop": honoured,
	"spec.containers[].lifecycle.stopSignal":   honoured,
	"spec.containers[].terminationMessagePath": honoured, "spec.containers[].terminationMessagePolicy": honoured,
	"spec.containers[].stdin": honoured, "spec.containers[].stdinOnce": honoured, "spec.containers[].tty": honoured,

	"spec.containers[].securityContext.capabilities.add":  honoured,
	"spec.containers[].securityContext.capabilities.drop": honoured,
	"spec.containers[].securityContext.privileged":        honoured, "spec.containers[].securityContext.runAsUser": honoured,
	"spec.containers[].securityContext.runAsGroup": honoured, "spec.containers[].securityContext.runAsNonRoot": honoured,
	"spec.containers[].securityContext.readOnlyRootFilesystem":          honoured,
	"spec.containers[].securityContext.allowPrivilegeEscalation":        honoured,
	"spec.containers[].securityContext.procMount":                       honoured,
	"spec.containers[].securityContext.seccompProfile.type":             seccompTypes,
	"spec.containers[].securityContext.seccompProfile.localhostProfile": honoured,
	"spec.containers[].securityContext.appArmorProfile":                 notYet,
	"spec.containers[].securityContext.seLinuxOptions":                  notYet,
	"spec.containers[].securityContext.windowsOptions":                  refused("this is a Linux host"),

	"spec.volumes[].name":               honoured,
	"spec.volumes[].emptyDir.medium":    {Verdict: Honoured, Why: "Memory, HugePages and HugePages-<size> are", allow: medium, meant: nearMedium},
	"spec.volumes[].emptyDir.sizeLimit": honoured,
	"spec.volumes[].hostPath.path":      honoured, "spec.volumes[].hostPath.type": honoured,
	"spec.volumes[].configMap": honoured, "spec.volumes[].secret": honoured, "spec.volumes[].downwardAPI": honoured,
	"spec.volumes[].projected.defaultMode":                   honoured,
	"spec.volumes[].projected.sources[].configMap":           honoured,
	"spec.volumes[].projected.sources[].secret":              honoured,
	"spec.volumes[].projected.sources[].downwardAPI":         honoured,
	"spec.volumes[].projected.sources[].serviceAccountToken": honoured,
	"spec.volumes[].projected.sources[].clusterTrustBundle":  refused(cluster),
	"spec.volumes[].projected.sources[].podCertificate":      refused(cluster),
	"spec.volumes[].image.reference":                         honoured, "spec.volumes[].image.pullPolicy": honoured,
	"spec.volumes[].nfs":   honoured,
	"spec.volumes[].iscsi": honoured, "spec.volumes[].fc": onHost, "spec.volumes[].persistentVolumeClaim": honoured,
	"spec.volumes[].ephemeral": {Verdict: Honoured, Why: "without a data source and attributes it is", allow: emptyAtFirst}, "spec.volumes[].csi": noCSI,
	"spec.volumes[].gcePersistentDisk": refused(cluster), "spec.volumes[].awsElasticBlockStore": refused(cluster),
	"spec.volumes[].gitRepo":   refused("upstream has turned it off: it runs commands of the repository"),
	"spec.volumes[].glusterfs": refused(cluster), "spec.volumes[].rbd": refused(cluster),
	"spec.volumes[].flexVolume": refused(cluster), "spec.volumes[].cinder": refused(cluster),
	"spec.volumes[].cephfs": refused(cluster), "spec.volumes[].flocker": refused(cluster),
	"spec.volumes[].azureFile": refused(cluster), "spec.volumes[].azureDisk": refused(cluster),
	"spec.volumes[].vsphereVolume": refused(cluster), "spec.volumes[].quobyte": refused(cluster),
	"spec.volumes[].photonPersistentDisk": refused(cluster), "spec.volumes[].portworxVolume": refused(cluster),
	"spec.volumes[].scaleIO": refused(cluster), "spec.volumes[].storageos": refused(cluster),
})

// emptyAtFirst tells whether the claim of an ephemeral volume asks for nothing that a directory has not.
func emptyAtFirst(v, _ reflect.Value) bool {
	vol, ok := v.Interface().(*v1.EphemeralVolumeSource)
	if !ok || vol.VolumeClaimTemplate == nil {
		return ok
	}
	spec := vol.VolumeClaimTemplate.Spec
	return spec.DataSource == nil && spec.DataSourceRef == nil && spec.VolumeAttributesClassName == nil
}

// withOthers adds the rows of init and ephemeral containers, which are those of containers, and one more for ephemeral
// ones. What makes no sense for them upstream's validation refuses.
func withOthers(rows map[string]Rule) map[string]Rule {
	const containers, init, ephemeral = "spec.containers[].", "spec.initContainers[].", "spec.ephemeralContainers[]."
	more := map[string]Rule{ephemeral + "targetContainerName": honoured}
	for name, rule := range rows {
		if field, ok := strings.CutPrefix(name, containers); ok {
			more[init+field], more[ephemeral+field] = rule, rule
		}
	}
	maps.Copy(rows, more)
	return rows
}
