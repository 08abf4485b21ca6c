//go:build host

package e2e

import (
	"strings"
	"testing"
)

// testRefused: every field that podd does not honour is refused, at its line, with its path and the reason. Nothing is
// applied.
func testRefused(t *testing.T, s *suite) {
	const (
		notYet  = "Forbidden: not supported by podd yet"
		cluster = "Forbidden: not supported by podd (needs a cluster)"
	)
	c := "spec.containers[0]."
	for _, r := range []struct {
		pod  pod
		path string
		says string
	}{
		{pod{Spec: "securityContext: {appArmorProfile: {type: Unconfined}}"}, "spec.securityContext.appArmorProfile", notYet},
		{pod{Spec: "hostNetwork: true\nsecurityContext: {sysctls: [{name: net/ipv4/tcp_syncookies, value: '1'}]}"}, "spec.securityContext.sysctls[0].name", "may not be specified when 'hostNetwork' is true"},
		{pod{Spec: "hostIPC: true\nsecurityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}"}, "spec.securityContext.sysctls[0].name", "may not be specified when 'hostIPC' is true"},
		{pod{Spec: "securityContext: {seLinuxOptions: {level: s0}}"}, "spec.securityContext.seLinuxOptions", notYet},
		{pod{Spec: "securityContext: {windowsOptions: {runAsUserName: x}}"}, "spec.securityContext.windowsOptions", "this is a Linux host"},

		{pod{Container: "securityContext: {procMount: Unmasked}"}, c + "securityContext.procMount", "`hostUsers` must be false to use `Unmasked`"},
		{pod{Container: "securityContext: {appArmorProfile: {type: Unconfined}}"}, c + "securityContext.appArmorProfile", notYet},
		{pod{Container: "securityContext: {seLinuxOptions: {level: s0}}"}, c + "securityContext.seLinuxOptions", notYet},

		{volume("emptyDir: {medium: HugePages-}"), "spec.volumes[0].emptyDir.medium", notYet},
		{volume("fc: {targetWWNs: [w], lun: 0}"), "spec.volumes[0].fc", notYet},
		{volume("csi: {driver: d.example}"), "spec.volumes[0].csi", notYet + " (a CSI driver runs only where a cluster registers it: use a hostPath, nfs or a persistentVolumeClaim)"},
		{volume("gitRepo: {repository: x}"), "spec.volumes[0].gitRepo", "Forbidden: not supported by podd"},
		{volume("rbd: {monitors: [m], image: i}"), "spec.volumes[0].rbd", cluster},
		{volume("cephfs: {monitors: [m]}"), "spec.volumes[0].cephfs", cluster},

		{pod{Meta: "annotations: {container.apparmor.security.beta.kubernetes.io/app: unconfined}"},
			"metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]", "Forbidden: not supported by podd"},
	} {
		t.Run(r.path, func(t *testing.T) {
			t.Parallel()
			r.pod.Name, r.pod.Script = "refused", "true"
			got := s.refused(t, r.pod.String(), "apply", "-f", "-")
			if !hasLine(got, "-:", ": "+r.path+": ", r.says) {
				t.Errorf("podctl says\n%s\nwant a line with %q: %q", got, r.path, r.says)
			}
		})
	}
}

// hasLine is true when one line of text has all parts.
func hasLine(text string, parts ...string) bool {
lines:
	for line := range strings.Lines(text) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		return true
	}
	return false
}

// volume is a pod with this volume.
func volume(source string) pod { return pod{Spec: "volumes:\n- name: v\n  " + source} }
