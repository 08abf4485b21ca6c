package status

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// pull is the operation whose failures have a back-off and waiting reasons of their own. Package plan names the rest.
const pull Op = "pull"

// Of is the status of pod as the facts show it, never derived from the status before. Transition times stay zero and
// conditions of others are left out: Stamp puts both in.
func Of(pod *v1.Pod, f Facts) v1.PodStatus {
	return v1.PodStatus{Phase: v1.PodPending}
}

// Stamp turns next, made by Of, into what is published after prev.
func Stamp(prev, next v1.PodStatus, now time.Time) v1.PodStatus {
	return next
}

// Outcome is the verdict that pod has come to and that is to be recorded, nil while there is none.
func Outcome(pod *v1.Pod, f Facts) *Verdict {
	return f.Verdict
}
