package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// ShouldRestart tells whether c is to run again after it exited with exitCode: by the first of its own rules that
// matches, else by its own policy, else by the pod's (pkg/api/v1/pod/util.go ContainerShouldRestart).
func ShouldRestart(pod *v1.Pod, c *v1.Container, exitCode int32) bool {
	if c.RestartPolicy == nil {
		return byPolicy(string(pod.Spec.RestartPolicy), exitCode)
	}
	if rule := firstRule(c, exitCode); rule != nil {
		if rule.Action == v1.ContainerRestartRuleActionRestart || rule.Action == v1.ContainerRestartRuleActionRestartAllContainers {
			return true
		} // else it is an action of a later release: the container's policy decides
	}
	return byPolicy(string(*c.RestartPolicy), exitCode)
}

// firstRule is the first rule of c that matches exitCode, nil if none does. Without a policy of its own a container has no
// rules.
func firstRule(c *v1.Container, exitCode int32) *v1.ContainerRestartRule {
	if c.RestartPolicy == nil {
		return nil
	}
	for i := range c.RestartPolicyRules {
		if matches(c.RestartPolicyRules[i], exitCode) {
			return &c.RestartPolicyRules[i]
		}
	}
	return nil
}

func byPolicy(policy string, exitCode int32) bool {
	switch policy {
	case string(v1.RestartPolicyNever):
		return false
	case string(v1.RestartPolicyOnFailure):
		return exitCode != 0
	}
	return true // Always, and the default
}

func matches(rule v1.ContainerRestartRule, exitCode int32) bool {
	if rule.ExitCodes == nil {
		return false
	}
	in := slices.Contains(rule.ExitCodes.Values, exitCode)
	switch rule.ExitCodes.Operator {
	case v1.ContainerRestartRuleOnExitCodesOpIn:
		return in
	case v1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !in
	}
	return false
}
