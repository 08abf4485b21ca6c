package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestPromptWords: that there may be a prompt is said where somebody can type at one, and where nobody can it is said how they could.
func TestPromptWords(t *testing.T) {
	const first, second = "All commands and output from here will be recorded in container logs, including credentials.\n", "If you don't see a command prompt, try pressing enter.\n"
	const cannot = "What is typed does not reach the container: that takes -i. Ctrl-C ends podctl, and not the container.\n"
	for args, want := range map[string]string{"": cannot, "-i": "", "-it": first + second, "-t": cannot} {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		flags.BoolP("stdin", "i", false, "")
		flags.BoolP("tty", "t", false, "")
		if err := flags.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		p := promptWords{w: &out, flags: flags}
		for _, line := range []string{first, second, "more\n"} {
			if n, err := p.Write([]byte(line)); n != len(line) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		if out.String() != want+"more\n" {
			t.Errorf("attach %s: %s", args, out.String())
		}
	}
}
