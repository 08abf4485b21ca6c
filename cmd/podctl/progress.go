package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"podd/api/images"
)

// progress shows a pull: on a terminal one line per layer that is drawn again, elsewhere a plain line whenever a
// layer comes to another state.
type progress struct {
	raw    io.Writer // moves the cursor; nil where that is not a terminal
	out    io.Writer
	width  int
	height int

	drawn   int // lines on the terminal
	last    time.Time
	pending *images.Progress // not drawn yet

	states map[string]string // by digest, what was said last
	speed  map[string]*speed
}

// speed is how fast a layer comes, over the last seconds.
type speed struct {
	offset int64
	at     time.Time
	rate   float64 // bytes per second
}

const (
	redraw = 100 * time.Millisecond
	settle = time.Second // how long a rate takes to follow a change
)

func newProgress(raw, out io.Writer) *progress {
	p := &progress{out: out, width: 80, height: 24, states: map[string]string{}, speed: map[string]*speed{}}
	if f, ok := raw.(*os.File); ok && terminal(raw) {
		p.raw = raw
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			p.width, p.height = w, h
		}
	}
	return p
}

func (p *progress) update(line images.Progress, now time.Time) {
	for _, l := range line.Layers {
		p.measure(l, now)
	}
	if p.raw == nil {
		p.say(line)
		return
	}
	p.pending = &line
	if line.Done || now.Sub(p.last) >= redraw {
		p.draw(now)
	}
}

// end shows what was held back.
func (p *progress) end() {
	if p.raw != nil && p.pending != nil {
		p.draw(p.last)
	}
}

func (p *progress) measure(l images.Layer, now time.Time) {
	s := p.speed[l.Digest]
	if s == nil {
		p.speed[l.Digest] = &speed{offset: l.Offset, at: now}
		return
	}
	passed := now.Sub(s.at)
	if passed < redraw {
		return
	}
	rate := float64(l.Offset-s.offset) / passed.Seconds()
	if weight := min(1, passed.Seconds()/settle.Seconds()); s.rate == 0 {
		s.rate = rate
	} else {
		s.rate += (rate - s.rate) * weight
	}
	s.offset, s.at = l.Offset, now
}

func (p *progress) say(line images.Progress) {
	if line.Status != "" && p.states[""] != line.Status && len(line.Layers) == 0 && !line.Done {
		p.states[""] = line.Status
		fmt.Fprintf(p.out, "%s: %s\n", line.Ref, line.Status)
	}
	for _, l := range line.Layers {
		if p.states[l.Digest] == l.Status {
			continue
		}
		p.states[l.Digest] = l.Status
		if l.Status == images.Downloading && l.Total > 0 {
			fmt.Fprintf(p.out, "%s: %s %s\n", digest(l), l.Status, bytesOf(l.Total))
			continue
		}
		fmt.Fprintf(p.out, "%s: %s\n", digest(l), l.Status)
	}
}

func (p *progress) draw(now time.Time) {
	line := p.pending
	p.pending, p.last = nil, now
	rows := []string{line.Ref + ": " + line.Status}
	for _, l := range line.Layers {
		rows = append(rows, p.row(l))
	}
	if len(rows) > p.height-1 { // what scrolled away could not be drawn again
		rows = append(rows[:p.height-2], fmt.Sprintf("... %d layers more", len(rows)-(p.height-2)))
	}
	if p.drawn > 0 {
		fmt.Fprintf(p.raw, "\x1b[%dA", p.drawn)
	}
	for _, row := range rows {
		if r := []rune(row); len(r) > p.width-1 {
			row = string(r[:p.width-1])
		}
		fmt.Fprint(p.raw, "\r\x1b[K")
		fmt.Fprintln(p.out, row) // cleaned: part of it comes from a registry
	}
	fmt.Fprint(p.raw, "\x1b[J")
	p.drawn = len(rows)
}

// row is a layer: its digest, its state and, while it comes, how far it is, how fast, and how long it will take.
func (p *progress) row(l images.Layer) string {
	if l.Status != images.Downloading {
		return fmt.Sprintf("%s  %-11s %10s", digest(l), l.Status, bytesOf(max(l.Total, l.Offset)))
	}
	if l.Total <= 0 {
		return fmt.Sprintf("%s  %-11s %10s", digest(l), l.Status, bytesOf(l.Offset))
	}
	const width = 20
	full := int(min(l.Offset, l.Total) * width / l.Total)
	row := fmt.Sprintf("%s  %-11s [%s%s] %10s / %s", digest(l), l.Status,
		strings.Repeat("=", full), strings.Repeat(" ", width-full), bytesOf(l.Offset), bytesOf(l.Total))
	if s := p.speed[l.Digest]; s != nil && s.rate > 0 {
		left := time.Duration(float64(l.Total-l.Offset) / s.rate * float64(time.Second)).Round(time.Second)
		row += fmt.Sprintf("  %s/s  %s left", bytesOf(int64(s.rate)), left)
	}
	return row
}

// digest is enough of a layer's digest to tell it from the others.
func digest(l images.Layer) string {
	_, hex, _ := strings.Cut(l.Digest, ":")
	if len(hex) > 12 {
		return hex[:12]
	}
	return l.Digest
}

// bytesOf is n bytes in the unit that suits it.
func bytesOf(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n) / 1024
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// meter shows on a terminal how much of an archive podd has taken. It is read by the goroutine that sends, and may
// still be when the answer is there.
type meter struct {
	in    io.Reader
	out   io.Writer // a terminal
	name  string
	total int64 // bytes

	mu   sync.Mutex
	sent int64
	last time.Time
	over bool
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.in.Read(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent += int64(n)
	if now := time.Now(); !m.over && (now.Sub(m.last) >= redraw || m.sent == m.total) {
		m.last = now
		what := fmt.Sprintf("%s of %s", bytesOf(m.sent), bytesOf(m.total))
		if m.sent >= m.total {
			what = "unpacking " + bytesOf(m.total)
		}
		fmt.Fprintf(m.out, "\r\x1b[K%.40s: %s", m.name, what)
	}
	return n, err
}

// end takes the line away again.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	fmt.Fprint(m.out, "\r\x1b[K")
}
