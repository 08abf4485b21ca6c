package main

import (
	"bytes"
	"io"
	"unicode/utf8"
)

// cleaner takes terminal control out of what is written through it: escape sequences whole, other control characters
// but newline and tab as ^X. What a pod writes into a log or a message must not move the cursor, set the title or
// answer for the user. A sequence may be cut anywhere between two writes.
type cleaner struct {
	w     io.Writer
	state state
	rest  []byte // the beginning of a character whose end was not written yet
}

// state is where in an escape sequence the cleaner is.
type state uint8

const (
	plain  state = iota
	escape       // after ESC
	csi          // after ESC [: up to a final byte
	text         // after ESC ] P X ^ _: up to BEL or ESC \; a newline ends it too, so that nothing hides what follows
	textEscape
	returned // after a carriage return, which is fine before a newline
)

func (c *cleaner) Write(p []byte) (int, error) {
	data := p
	if len(c.rest) > 0 {
		data = append(c.rest, p...)
		c.rest = nil
	}
	out := make([]byte, 0, len(data)+16)
	for len(data) > 0 {
		if !utf8.FullRune(data) {
			c.rest = bytes.Clone(data)
			break
		}
		r, n := utf8.DecodeRune(data)
		out = c.next(out, r, data[:n])
		data = data[n:]
	}
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// next appends what is left of the character r, written as raw.
func (c *cleaner) next(out []byte, r rune, raw []byte) []byte {
	switch c.state {
	case escape:
		c.state = plain
		switch {
		case r == '[':
			c.state = csi
		case r == ']' || r == 'P' || r == 'X' || r == '^' || r == '_':
			c.state = text
		case r >= 0x20 && r < 0x30: // an intermediate: one more follows
			c.state = escape
		case r < 0x20:
			return c.next(out, r, raw)
		}
		return out
	case csi:
		if r >= 0x20 && r < 0x40 {
			return out
		}
		c.state = plain
		if r >= 0x40 && r < 0x7f {
			return out
		}
	case text, textEscape:
		after := c.state == textEscape
		c.state = text
		switch {
		case r == '\a' || r == 0x9c || after && r == '\\':
			c.state = plain
			return out
		case r == '\n':
			c.state = plain
		case r == 0x1b:
			c.state = textEscape
			return out
		default:
			return out
		}
	case returned:
		c.state = plain
		if r != '\n' {
			out = append(out, "^M"...)
		}
	}
	return c.visible(out, r, raw)
}

// visible appends r outside of any sequence.
func (c *cleaner) visible(out []byte, r rune, raw []byte) []byte {
	switch {
	case r == '\n' || r == '\t':
		return append(out, raw...)
	case r == '\r':
		c.state = returned
	case r == 0x1b:
		c.state = escape
	case r == 0x9b:
		c.state = csi
	case r == 0x90 || r == 0x98 || r >= 0x9d && r <= 0x9f:
		c.state = text
	case r < 0x20 || r == 0x7f:
		return append(out, '^', byte(r)^0x40)
	case r >= 0x80 && r < 0xa0:
	case r == utf8.RuneError && len(raw) == 1: // not UTF-8; a terminal may take the bare byte for control
		return append(out, "\ufffd"...)
	default:
		return append(out, raw...)
	}
	return out
}
