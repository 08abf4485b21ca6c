package api

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls are those that reach no further than the pod (pkg/kubelet/sysctl/safe_sysctls.go): every kernel that podd runs on
// has them apart for each namespace.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}

// forbiddenSysctl says what is wrong with the sysctls that a pod asks for, as the kubelet does (pkg/kubelet/sysctl/allowlist.go);
// "" is nothing. Those of namespaces that are the host's are refused by validation.
func forbiddenSysctl(pod *v1.Pod) string {
	if pod.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if name := sysctl.NormalizeName(s.Name); !slices.Contains(safeSysctls, name) {
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)
		}
	}
	return ""
}
