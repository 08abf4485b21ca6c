package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// ClearHost removes the cgroups that pods have in common below parent, for when podd leaves the host; nil when there
// are none. Processes in them are not ended: the error then names the cgroup.
func ClearHost(ctx context.Context, parent string) error {
	c, err := openCgroups(parent)
	if err != nil {
		return err
	}
	for _, h := range slices.Concat(c.trees, c.spare) {
		dir := filepath.Join(h.at, c.parent)
		err := until(ctx, func() (bool, error) { return removeTree(dir) })
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}
