package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"podd/api/claims"
	"podd/volumes"
)

// claimsDir is where below the root the volumes of claims are.
const claimsDir = "claims"

// purge removes what podd keeps below its root, and says which volumes of claims are deleted and which stay.
type purge struct {
	root string
	all  bool // volumes that are to be retained as well
	list []v1.PersistentVolume
	say  func(format string, args ...any)
}

// run removes the root, or all in it but the volumes that stay.
func (p purge) run(ctx context.Context) error {
	kept, err := p.volumes(ctx)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(p.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() == claimsDir && kept > 0 || e.Name() == madeFile || e.Name() == settingsFile { // which are needed until all else is gone
			continue
		}
		if err := volumes.RemoveAll(ctx, p.root, e.Name()); err != nil { // what is still mounted is not podd's to delete
			return err
		}
	}
	if err := os.Remove(filepath.Join(p.root, settingsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if kept == 0 {
		if err := rememberMade(p.root, nil); err != nil {
			return err
		}
		if err := os.Remove(p.root); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		p.say("removed: %s", p.root)
		return nil
	}
	p.say("removed: %s, all but %d retained volumes; delete them by hand, or with --purge --purge-volumes", p.root, kept)
	return nil
}

// volumes deletes the directories of volumes, and counts those that stay: they hold something, and podd would not have
// deleted them with their claims either.
func (p purge) volumes(ctx context.Context) (kept int, err error) {
	dir := filepath.Join(p.root, claimsDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for volumes: %w", err)
	}
	for _, e := range entries {
		name, goes, whose := e.Name(), p.all, ""
		for i := range p.list {
			if v := &p.list[i]; v.Name == name {
				goes = goes || claims.Provisioned(v) && v.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete
				if ref := v.Spec.ClaimRef; ref != nil {
					whose = fmt.Sprintf(" (claim %s/%s)", ref.Namespace, ref.Name)
				}
			}
		}
		if inside, err := os.ReadDir(filepath.Join(dir, name)); err == nil && len(inside) == 0 && !goes {
			continue // nothing is lost
		}
		if !goes {
			p.say("kept: volume %s%s, retained: %s", name, whose, filepath.Join(dir, name))
			kept++
			continue
		}
		if err := volumes.RemoveAll(ctx, dir, name); err != nil {
			return 0, err
		}
		p.say("deleted: volume %s%s", name, whose)
	}
	return kept, nil
}
