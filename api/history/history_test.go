package history

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestCut: a long text keeps its beginning and its end, and stays text.
func TestCut(t *testing.T) {
	long := "begin" + strings.Repeat("é\xff", 1000) + "the end"
	for most := 20; most < 40; most++ {
		if got := Cut(long, most); len(got) > most || !strings.HasPrefix(got, "begin") || !strings.HasSuffix(got, "the end") || !strings.Contains(got, "...") || !utf8.ValidString(got) {
			t.Errorf("of %d bytes: %q", most, got)
		}
	}
	if got := Cut("a\xffb", 5); got != "a\ufffdb" {
		t.Errorf("a short one is %q", got)
	}
}
