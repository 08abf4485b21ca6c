package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// jsonReader builds values from the tokens of one chunk.
type jsonReader struct {
	c      chunk
	dec    *json.Decoder
	values int

	// Where seen begins on its line; both only grow, so that finding positions takes one pass over the chunk.
	seen, line, start int
}

// readJSON reads the JSON values of c, one after the other.
func readJSON(c chunk) ([]*Value, *Mistake) {
	data := c.data
	if bytes.HasPrefix(data, []byte("---")) { // blanked, so that the columns stay
		data = append([]byte("   "), data[3:]...)
		c.data = data
	}
	j := &jsonReader{c: c, dec: json.NewDecoder(bytes.NewReader(data)), line: c.line}
	j.dec.UseNumber()
	var all []*Value
	for {
		j.values = 0
		v, err := j.value(0)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, j.mistake(err)
		}
		all = append(all, v)
	}
}

func (j *jsonReader) mistake(err error) *Mistake {
	var m *Mistake
	if errors.As(err, &m) {
		return m
	}
	offset := j.dec.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = max(offset, syntax.Offset-1)
	}
	line, column := position(j.c.data, int(offset))
	message := strings.TrimPrefix(err.Error(), "json: ")
	if errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(message, "unexpected end") {
		message = "the JSON ends in the middle"
		line, column = position(j.c.data, len(bytes.TrimRight(j.c.data, " \t\r\n")))
	}
	return &Mistake{Line: j.c.line + line - 1, Column: column, Message: message}
}

// next takes a token and tells where it begins.
func (j *jsonReader) next() (tok json.Token, line, column int, err error) {
	start := int(j.dec.InputOffset())
	if tok, err = j.dec.Token(); err != nil {
		return nil, 0, 0, err
	}
	data := j.c.data
	for start < len(data) && strings.IndexByte(" \t\r\n,:", data[start]) >= 0 {
		start++
	}
	for ; j.seen < start; j.seen++ {
		if data[j.seen] == '\n' {
			j.line, j.start = j.line+1, j.seen+1
		}
	}
	return tok, j.line, start - j.start + 1, nil
}

// value reads one value; io.EOF means there is none.
func (j *jsonReader) value(depth int) (*Value, error) {
	tok, line, column, err := j.next()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	v := &Value{Line: line, Column: column}
	if j.values++; j.values > MaxValues {
		return nil, tooMany(line, column)
	}
	switch t := tok.(type) {
	case bool:
		v.Kind, v.Text = Boolean, "false"
		if t {
			v.Text = "true"
		}
		v.Written = v.Text
	case json.Number:
		v.Kind, v.Text, v.Written = Number, t.String(), t.String()
	case string:
		v.Kind, v.Text = Text, t
	case json.Delim:
		if depth == MaxDepth {
			return nil, tooDeep(line, column)
		}
		v.Kind = List
		if t == '{' {
			v.Kind = Mapping
		}
		return v, j.inside(v, depth)
	}
	return v, nil
}

// inside reads what a list or a mapping holds, and its end.
func (j *jsonReader) inside(v *Value, depth int) error {
	for j.dec.More() {
		if v.Kind == List {
			item, err := j.value(depth + 1)
			if err != nil {
				return err
			}
			v.Items = append(v.Items, item)
			continue
		}
		key, line, column, err := j.next()
		if err != nil {
			return err
		}
		name, ok := key.(string)
		if !ok { // the decoder reports it before this can be
			return &Mistake{Line: line, Column: column, Message: "a key must be a string"}
		}
		item, err := j.value(depth + 1)
		if err != nil {
			return err
		}
		v.Fields = append(v.Fields, Field{Name: name, Line: line, Column: column, Value: item})
	}
	_, err := j.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
