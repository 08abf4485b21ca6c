package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkOpen reads a state file of 1,000 pods with records, as a crash has left it and as an orderly end has.
func BenchmarkOpen(b *testing.B) {
	const pods = 1000
	path := filepath.Join(b.TempDir(), "state.db")
	s := open(b, path)
	record := []byte(strings.Repeat("r", 1500))
	for i := range pods {
		name := fmt.Sprintf("pod-%04d", i)
		data := podData(b, name, func(p *v1.Pod) {
			p.Annotations = map[string]string{"ballast": strings.Repeat("x", 2000)}
			p.Spec.Containers = []v1.Container{{Name: "app", Image: "image"}}
		})
		if _, err := s.Put(Lazily(b.Context()), PodPrefix+"default/"+name, data, 0, 0); err != nil {
			b.Fatal(err)
		}
		if err := s.PutRecord(b.Context(), types.UID("uid-"+name), record); err != nil {
			b.Fatal(err)
		}
	}
	crashed, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	closed, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for name, image := range map[string][]byte{"crashed": crashed, "closed": closed} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if err := os.WriteFile(path, image, 0o600); err != nil {
					b.Fatal(err)
				}
				unix.Sync() // what a podd has committed is on disk
				b.StartTimer()
				s, err := Open(Options{Path: path})
				if err != nil || len(s.Pods()) != pods || s.Quarantined() != "" {
					b.Fatalf("%d pods: %v", len(s.Pods()), err)
				}
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(len(image))/1e6, "MB")
		})
	}
}

// BenchmarkPut writes durably: one writer, and 64 that share commits.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "state.db"))
			data := podData(b, "a")
			before, n := s.synced.Load(), atomic.Int64{}
			b.SetParallelism(writers)
			b.ResetTimer()
			if writers == 1 {
				for b.Loop() {
					if _, err := s.Put(b.Context(), fmt.Sprintf("/x/%d", n.Add(1)), data, 0, 0); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := s.Put(b.Context(), fmt.Sprintf("/x/%d", n.Add(1)), data, 0, 0); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportMetric(float64(s.synced.Load()-before)/float64(max(n.Load(), 1)), "syncs/op")
		})
	}
}
