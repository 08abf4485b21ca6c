//go:build host

package network

import "testing"

// What a pod's network costs; Netns is what a sandbox waits for, Ensure what its first container waits for.
func BenchmarkPod(b *testing.B) {
	dir := b.TempDir()
	n, err := Open(Options{ConfDir: dir + "/net.d", BinDirs: []string{bundle()}, StateDir: dir + "/state", NetnsDir: dir + "/netns"})
	if err == nil {
		err = n.Setup(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	p := pod("p")
	step := func(name string, before, f, after func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if err := before(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := after(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	none := func() error { return nil }
	netns := func() error { _, err := n.Netns(b.Context(), p); return err }
	ensure := func() error { _, err := n.Ensure(b.Context(), p); return err }
	remove := func() error { return n.Remove(b.Context(), p.UID) }
	look := func() error { _, err := n.Look(p.UID); return err }
	step("Netns", none, netns, remove)
	step("Ensure", netns, ensure, remove)
	step("Remove", ensure, remove, none)
	if err := ensure(); err != nil {
		b.Fatal(err)
	}
	step("EnsureAgain", none, ensure, none)
	step("Look", none, look, none)
	step("Setup", none, func() error { return n.Setup(b.Context()) }, none)
	if err := remove(); err != nil {
		b.Fatal(err)
	}
	if err := n.Clear(b.Context()); err != nil {
		b.Fatal(err)
	}
}
