package pki

import (
	"path/filepath"
	"strconv"
	"testing"
)

// BenchmarkOpen is what certificates add to the start of podd: the first, and those after it.
func BenchmarkOpen(b *testing.B) {
	b.Run("first", func(b *testing.B) {
		dir := b.TempDir()
		for i := 0; b.Loop(); i++ {
			if _, err := Open(options(filepath.Join(dir, strconv.Itoa(i)), nil)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("later", func(b *testing.B) {
		dir := b.TempDir()
		for b.Loop() {
			if _, err := Open(options(dir, nil)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
