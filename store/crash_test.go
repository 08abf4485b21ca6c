package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestMain is also the victim of the crash test: a process that writes until it is killed, and says what was acknowledged.
func TestMain(m *testing.M) {
	if path := os.Getenv("STORE_VICTIM"); path != "" {
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(path string) error {
	s, err := Open(Options{Path: path})
	if err != nil {
		return err
	}
	ctx := context.Background()
	flushed := make(chan struct{}, 1)
	for i := range 40 {
		name := fmt.Sprintf("p%02d", i)
		data, err := encodePod(&v1.Pod{})
		if err != nil {
			return err
		}
		e, err := s.Put(ctx, "/objects/"+name, data, 0, 0)
		if err != nil {
			return err
		}
		fmt.Println(e.Key, e.Revision)
		lazily, err := s.Put(Lazily(ctx), "/lazy/"+name, data, 0, 0)
		if err != nil {
			return err
		}
		fmt.Println("-", lazily.Revision)
		if i%3 == 2 {
			s.compact()
		}
		if i%10 == 9 { // let a flush come
			s.commit.Lock()
			timer := s.flushed
			s.commit.Unlock()
			if timer != nil {
				go func() { s.flush(); flushed <- struct{}{} }()
				<-flushed
			}
		}
	}
	return s.Close()
}

// TestKilledAtEveryPoint kills the writer at each kill point of this package, at its first, second and tenth passing: what
// was acknowledged is there, and no revision comes twice.
func TestKilledAtEveryPoint(t *testing.T) {
	source, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, file := range source {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`killpoint\.At\("([^"]+)"\)`).FindAllStringSubmatch(string(text), -1) {
			points = append(points, m[1])
		}
	}
	if len(points) < 5 {
		t.Fatalf("kill points: %v", points)
	}
	for _, point := range points {
		for _, times := range []int{1, 2, 10} {
			if times > 2 && strings.Contains(point, "flush") {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", point, times), func(t *testing.T) { killedAt(t, fmt.Sprintf("%s:%d", point, times)) })
		}
	}
}

func killedAt(t *testing.T, point string) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	before := putPod(t, s, "before")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	victim.Env = append(os.Environ(), "STORE_VICTIM="+path, "PODD_KILL_AT="+point)
	out, err := victim.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the victim was not killed: %v", err)
	}
	s = open(t, path)
	if s.Quarantined() != "" {
		t.Fatal("a kill has corrupted the file")
	}
	if _, ok := s.PodByUID("uid-before"); !ok {
		t.Error("what was there before is gone")
	}
	last := before.Revision
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		var key string
		var rev int64
		if _, err := fmt.Sscan(lines.Text(), &key, &rev); err != nil {
			t.Fatal(err)
		}
		if rev <= last {
			t.Errorf("revision %d after %d", rev, last)
		}
		last = rev
		if key == "-" {
			continue
		}
		if e, ok := s.Get(key); !ok || e.Revision != rev {
			t.Errorf("%s was acknowledged at %d and is %v", key, rev, e.Revision)
		}
	}
	if e := putPod(t, s, "after"); e.Revision <= last {
		t.Errorf("after the crash revision %d was given away again: %d", last, e.Revision)
	}
}
