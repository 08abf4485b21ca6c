package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"

	"podd/api/images"
)

// asPodctl makes the test binary be podctl, for what needs a process and a terminal.
const asPodctl = "PODCTL_TEST_AS_PODCTL"

// onTerminal runs podctl on a terminal of 100 columns and 40 rows. It types in when it sees prompt, and returns what
// reached the terminal and the exit code.
func onTerminal(t *testing.T, prompt, in string, args ...string) (string, int) {
	t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := pty.Resize(console.WinSize{Width: 100, Height: 40}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asPodctl+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var seen bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		typed := false
		for {
			n, err := pty.Read(buf)
			seen.Write(buf[:n])
			if !typed && in != "" && strings.Contains(seen.String(), prompt) {
				typed = true
				_, _ = io.WriteString(pty, in)
			}
			if err != nil { // EIO: podctl closed its side
				return
			}
		}
	}()
	_ = cmd.Wait()
	<-read
	return seen.String(), cmd.ProcessState.ExitCode()
}

func TestTerminal(t *testing.T) {
	serve(t)
	if _, errOut, code := ask(pod, "apply", "-f", "-"); code != 0 {
		t.Fatal(errOut)
	}
	for _, c := range []struct {
		args       []string
		prompt, in string
		want       string
		code       int
	}{
		{[]string{"exec", "-itq", "web", "--", "ask"}, "name? ", "podd\r", "size 100x40\r\nname? hello podd\x1b[0m\r\ncommand terminated with exit code 3\r\n", 3},
		{[]string{"exec", "-q", "web", "--", "paint"}, "", "", "red\r\n", 0},
		{[]string{"logs", "web", "-c", "other"}, "", "", "log of web/other\r\n", 0},
		{[]string{"logs", "web", "-c", "nope"}, "", "", "error: container nope is not valid for pod web out of: app, other\r\n", 1},
	} {
		out, code := onTerminal(t, c.prompt, c.in, c.args...)
		if out != c.want || code != c.code {
			t.Errorf("podctl %v: %q, exit code %d", c.args, out, code)
		}
	}
	out, code := onTerminal(t, "", "", "image", "pull", "busybox:1.36")
	if code != 0 || !strings.Contains(out, "\x1b[2A\r\x1b[K") || !strings.HasSuffix(out, "image \"docker.io/library/busybox:1.36\" pulled (2.0 MiB)\r\n") {
		t.Errorf("pull: %q, exit code %d", out, code)
	}
}

func TestCleaner(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä 世界\ttab\n":        "plain ä 世界\ttab\n",
		"\x1b[31mred\x1b[0m":       "red",
		"\x1b]0;title\atext":       "text",
		"\x1b]0;title\x1b\\text":   "text",
		"\x1b]8;;http://x\x1b\\a":  "a",
		"\x1b]never ended\nnext\n": "\nnext\n",
		"\x1bPquery\x1b\\a":        "a",
		"\x1b(Ba":                  "a",
		"\x1bca":                   "a",
		"\x1b\x1b[2Ja":             "a",
		"\x1b[31\nx":               "\nx",
		"bell\a back\b del\x7f":    "bell^G back^H del^?",
		"over\rwritten":            "over^Mwritten",
		"dos\r\n":                  "dos\n",
		"a\r\r\nb":                 "a^M\nb",
		"\u009b2Ja":                "a",
		"\u009d0;title\u009ca":     "a",
		"\x9b2Ja":                  "\ufffd2Ja",
		"\u0085a":                  "a",
		"a\x1b[38;5;1mb\x1b[?25lc": "abc",
		"\x1b[\x1b]0;x\aa":         "a",
	} {
		for cut := range len(in) + 1 { // whatever way it is cut
			var out bytes.Buffer
			c := &cleaner{w: &out}
			for _, part := range []string{in[:cut], in[cut:]} {
				if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if out.String() != want {
				t.Errorf("%q cut at %d: got %q, want %q", in, cut, out.String(), want)
			}
		}
	}
}

// FuzzCleaner looks for input that leaves terminal control in.
func FuzzCleaner(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\x1b]0;x\a"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		cut = min(max(cut, 0), len(in))
		var out bytes.Buffer
		c := &cleaner{w: &out}
		for _, part := range [][]byte{in[:cut], in[cut:]} {
			if n, err := c.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		for _, r := range out.String() {
			if r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%q leaves %q", in, out.String())
			}
		}
	})
}

func TestProgressRows(t *testing.T) {
	p := newProgress(nil, io.Discard)
	start := time.Unix(0, 0)
	layer := images.Layer{Digest: "sha256:0123456789abcdef", Status: images.Downloading, Total: 10 << 20}
	for second := range 4 {
		layer.Offset = int64(second) << 20
		p.update(images.Progress{Layers: []images.Layer{layer}}, start.Add(time.Duration(second)*time.Second))
	}
	if got, want := p.row(layer), "0123456789ab  downloading [======              ]    3.0 MiB / 10.0 MiB  1.0 MiB/s  7s left"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestManyLayersFit(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(nil, &out)
	p.raw, p.height = &out, 5
	line := images.Progress{Ref: "a", Status: "downloading"}
	for i := range 20 {
		line.Layers = append(line.Layers, images.Layer{Digest: fmt.Sprint("sha256:", i), Status: images.Waiting})
	}
	p.update(line, time.Now())
	if got := strings.Count(out.String(), "\n"); got != 4 || !strings.Contains(out.String(), "... 18 layers more") {
		t.Errorf("%d lines: %s", got, out.String())
	}
}
