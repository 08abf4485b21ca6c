package main

import (
	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// rejected is the verdict over a pod that the node does not take; no reason is none.
func rejected(reason, message string) *status.Verdict {
	if reason == "" {
		return nil
	}
	return &status.Verdict{Phase: v1.PodFailed, Reason: reason, Message: message}
}
