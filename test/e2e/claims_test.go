//go:build host

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestClaims is what pods keep beyond their own life: claims, the volumes that they are bound to, and what becomes of both.
func TestClaims(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]func(*testing.T, *suite){
		"standard": testClaimStandard,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// claim is a manifest of a claim.
type claim struct {
	Name string
	Spec string // more lines of the spec
	Size string // 1Mi if empty
}

func (c claim) String() string {
	if c.Size == "" {
		c.Size = "1Mi"
	}
	spec := c.Spec
	if spec == "" {
		spec = "accessModes: [ReadWriteOnce]"
	}
	return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + c.Name + "}\nspec:\n  resources: {requests: {storage: " + c.Size + "}}\n" + indent(2, spec)
}

// claiming is a pod with a claim at /v.
func claiming(name, claim, script string) pod {
	return pod{Name: name, Script: script, Spec: "volumes: [{name: v, persistentVolumeClaim: {claimName: " + claim + "}}]",
		Container: "volumeMounts: [{name: v, mountPath: /v}]"}
}

// claimUntil waits until what is wanted is true of a claim; of one that is gone, nil.
func (s *suite) claimUntil(t *testing.T, name, what string, wanted func(*v1.PersistentVolumeClaim) bool) *v1.PersistentVolumeClaim {
	t.Helper()
	var found *v1.PersistentVolumeClaim
	eventually(t, func() error {
		c, err := s.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceDefault).Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			c, err = nil, nil
		}
		if found = c; err != nil || !wanted(c) {
			return fmt.Errorf("claim %s is not %s: %v, %v", name, what, c, err)
		}
		return nil
	})
	return found
}

func bound(c *v1.PersistentVolumeClaim) bool { return c != nil && c.Status.Phase == v1.ClaimBound }

// directory is where the volume of a claim is.
func (s *suite) directory(c *v1.PersistentVolumeClaim) string {
	return filepath.Join(s.Root, "claims", c.Spec.VolumeName)
}

// A claim of the default class: a pod writes, another one reads, and with the claim everything goes.
func testClaimStandard(t *testing.T, s *suite) {
	s.apply(t, claim{Name: "standard"})
	if got := s.output(t, claiming("standard-1", "standard", "echo kept >/v/file; stat -c %a /v")); got != "777" {
		t.Errorf("the volume has mode %s", got)
	}
	if got := s.output(t, claiming("standard-2", "standard", "cat /v/file")); got != "kept" {
		t.Errorf("another pod reads %q", got)
	}
	c := s.claimUntil(t, "standard", "bound", bound)
	if *c.Spec.StorageClassName != "standard" || c.Status.Capacity.Storage().String() != "1Mi" || len(c.Status.AccessModes) != 1 {
		t.Errorf("claim: %+v", c)
	}
	if b, err := os.ReadFile(filepath.Join(s.directory(c), "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	s.must(t, "delete", "pvc", "standard")
	s.volumeGone(t, c.Spec.VolumeName)
}

// volumeGone waits until nothing of a volume is left.
func (s *suite) volumeGone(t *testing.T, name string) {
	t.Helper()
	eventually(t, func() error {
		_, err := s.client.CoreV1().PersistentVolumes().Get(context.Background(), name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("volume %s: %v", name, err)
		}
		return nil
	})
	if entries, err := os.ReadDir(filepath.Join(s.Root, "claims")); err != nil {
		t.Error(err)
	} else {
		for _, e := range entries {
			if e.Name() == name {
				t.Errorf("volume %s is gone and its directory is there", name)
			}
		}
	}
}
