package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestPersist: an event that the disk does not take is written again, one that is refused is not, and none for ever.
func TestPersist(t *testing.T) {
	full := apierrors.NewInternalError(unix.ENOSPC)
	refused := apierrors.NewInvalid(schema.GroupKind{Kind: "Event"}, "x", nil)
	for name, c := range map[string]struct {
		fails error
		times int // how often it fails
		tries int
		took  time.Duration
	}{
		"written":              {unix.ENOSPC, 0, 1, 0},
		"the disk was full":    {unix.ENOSPC, 3, 4, 3 * eventRetry},
		"so the API says":      {full, 1, 2, eventRetry},
		"the disk stays full":  {unix.ENOSPC, 100, eventTries, (eventTries - 1) * eventRetry},
		"refused":              {refused, 100, 1, 0},
		"the namespace is not": {errNoPlace, 100, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				written, err := persist(t.Context(), func() (*v1.Event, error) {
					if tries++; tries <= c.times {
						return nil, c.fails
					}
					return &v1.Event{}, nil
				})
				if took := time.Since(began); tries != c.tries || took != c.took {
					t.Errorf("%d tries in %s, want %d in %s", tries, took, c.tries, c.took)
				}
				if lost := c.times >= c.tries; lost != errors.Is(err, c.fails) || lost != (written == nil) {
					t.Errorf("%v, %v", written, err)
				}
			})
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := persist(ctx, func() (*v1.Event, error) { return nil, unix.ENOSPC }); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("when podd ends: %v", err)
	}
}
