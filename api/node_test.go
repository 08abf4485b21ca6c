package api_test

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/api/usage"
)

// Usage is that of a host that was measured once.
func (p *pods) Usage(_ context.Context, want usage.Want) (*usage.Snapshot, error) {
	return &usage.Snapshot{At: time.Now(), Full: want.Full}, nil
}

func hasCondition(node *v1.Node, kind v1.NodeConditionType, status v1.ConditionStatus) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == kind && c.Status == status })
}
