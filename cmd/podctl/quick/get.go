package quick

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/liggitt/tabwriter"
)

// get prints pods.
func get(args []string, env func(string) string, stdout, stderr io.Writer) bool {
	q, ok := parseGet(args, env)
	if !ok {
		return false
	}
	t, err := q.ask()
	if err != nil || t.Kind != "Table" || t.Metadata.Continue != "" {
		return false
	}
	if len(t.Rows) == 0 && !q.all && q.namespace != "default" { // whether there is such a namespace is to be looked at
		return false
	}
	if len(t.Rows) == 0 {
		where := " in " + q.namespace + " namespace."
		if q.all {
			where = ""
		}
		_, _ = fmt.Fprintln(stderr, "No resources found"+where)
		return true
	}
	var out bytes.Buffer
	if !q.print(&out, t) {
		return false
	}
	_, _ = stdout.Write(out.Bytes()) // kubectl's get does not see whether it could, either
	return true
}

// query is what is asked for.
type query struct {
	common

	name            string
	all, wide, bare bool // of all namespaces; with more columns; without their names
}

// parseGet reads the arguments, as far as they have nothing that kubectl's get has to look at.
func parseGet(args []string, env func(string) string) (query, bool) {
	q := query{common: commonOf(env)}
	words, ok := parse(args, q.flag, "-n", "--namespace", "-o", "--output", "--socket")
	if !ok {
		return q, false
	}
	if len(words) == 2 && !q.all && plain(words[1]) {
		q.name, words = words[1], words[:1]
	}
	return q, len(words) == 1 && (words[0] == "pods" || words[0] == "pod" || words[0] == "po")
}

// flag sets one and tells whether it is understood.
func (q *query) flag(name, value string) bool {
	switch name {
	case "-o", "--output":
		q.wide = value == "wide"
		return q.wide
	case "-A", "--all-namespaces":
		q.all = true
	case "--no-headers":
		q.bare = true
	case "-owide":
		q.wide = true
	default:
		return q.common.flag(name, value)
	}
	return true
}

func (q query) path() string {
	switch {
	case q.all:
		return "/api/v1/pods"
	case q.name != "":
		return "/api/v1/namespaces/" + q.namespace + "/pods/" + q.name
	default:
		return "/api/v1/namespaces/" + q.namespace + "/pods"
	}
}

// table is the part that is printed of a metav1.Table.
type table struct {
	Kind     string
	Metadata struct{ Continue string }
	Columns  []struct {
		Name     string
		Priority int
	} `json:"columnDefinitions"`
	Rows []struct {
		Cells  []any
		Object struct{ Metadata struct{ Namespace string } }
	}
}

// ask gets the table from podd.
func (q query) ask() (*table, error) {
	a, err := exchange(q.socket, "GET "+q.path()+" HTTP/1.0\r\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n", nil)
	if err != nil {
		return nil, err
	}
	if a.status != "200 OK" || len(a.warnings) > 0 {
		return nil, errors.New("podd: " + a.status)
	}
	t := new(table)
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber()
	return t, d.Decode(t)
}

// print writes the table in columns and tells whether there was nothing in it but plain text.
func (q query) print(out *bytes.Buffer, t *table) bool {
	columns := tabwriter.NewWriter(out, 6, 4, 3, ' ', tabwriter.RememberWidths)
	shown := func(i int) bool { return i < len(t.Columns) && (q.wide || t.Columns[i].Priority == 0) }
	var line []string
	if q.all {
		line = append(line, "NAMESPACE")
	}
	for i, c := range t.Columns {
		if shown(i) {
			line = append(line, strings.ToUpper(c.Name))
		}
	}
	if !q.bare && !write(columns, line) {
		return false
	}
	for _, row := range t.Rows {
		line = line[:0]
		if q.all {
			line = append(line, row.Object.Metadata.Namespace)
		}
		for i, cell := range row.Cells {
			if !shown(i) {
				continue
			}
			text := ""
			if cell != nil {
				text = fmt.Sprint(cell)
			}
			line = append(line, text)
		}
		if !write(columns, line) {
			return false
		}
	}
	return columns.Flush() == nil
}

// write tells whether the cells have no character that is more than text: those are kubectl's and the cleaner's to treat.
func write(w io.Writer, cells []string) bool {
	for _, cell := range cells {
		if strings.ContainsFunc(cell, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			return false
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(cells, "\t"))
	return err == nil
}
