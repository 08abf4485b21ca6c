package harness

import (
	"bytes"
	"maps"
	"runtime/pprof"
	"sync"
	"testing"
)

// TestParseGoroutines: a goroutine is known by who started it, and one of a WaitGroup by what it was started for.
func TestParseGoroutines(t *testing.T) {
	var group sync.WaitGroup
	begun, over := make(chan struct{}, 3), make(chan struct{})
	wait := func() {
		begun <- struct{}{}
		<-over
	}
	group.Go(wait)
	group.Go(wait)
	group.Add(1)
	go func() {
		defer group.Done()
		wait()
	}()
	for range cap(begun) {
		<-begun
	}
	var dump bytes.Buffer
	err := pprof.Lookup("goroutine").WriteTo(&dump, 2)
	close(over)
	group.Wait()
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseGoroutines(dump.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(by string, _ int) bool {
		return by != "podd/test/harness.TestParseGoroutines" && by != "podd/test/harness.TestParseGoroutines.func1"
	})
	if want := map[string]int{"podd/test/harness.TestParseGoroutines.func1": 2, "podd/test/harness.TestParseGoroutines": 1}; !maps.Equal(all, want) {
		t.Errorf("%v, want %v\n%s", all, want, dump.String())
	}
}
