// Package quick answers `podctl get pods` before the rest of podctl is there.
//
// What kubectl's commands are made of takes three quarters of the time of such a command before main begins. A package is
// initialised as soon as all it imports are, the first by name of those that could be: this one imports little, so it comes before
// them. What it does not know in every letter it leaves to kubectl's get, which does all again: other flags, errors, and answers
// that need more than columns. What it prints is what that would.
package quick

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/liggitt/tabwriter"

	"podd/cmd/early"
)

func init() {
	if answer(os.Args, os.Getenv, os.Stdout, os.Stderr) {
		os.Exit(0)
	}
	early.Begin() // all the rest is needed
}

// DefaultSocket is podd's own.
const DefaultSocket = "/run/podd/podd.sock"

// answer does what args say and tells whether it did; if not, it has printed nothing.
func answer(args []string, env func(string) string, stdout, stderr io.Writer) bool {
	q, ok := parse(args, env)
	if !ok {
		return false
	}
	t, err := q.ask()
	if err != nil || t.Kind != "Table" || t.Metadata.Continue != "" {
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
	socket, namespace, name string
	all, wide, bare         bool // of all namespaces; with more columns; without their names
}

// parse reads the command line, as far as it has nothing that kubectl's get has to look at.
func parse(args []string, env func(string) string) (query, bool) {
	q := query{socket: env("PODD_SOCKET"), namespace: "default"}
	if len(args) < 3 || args[1] != "get" || env("KUBECONFIG") != "" {
		return q, false
	}
	if q.socket == "" {
		q.socket = DefaultSocket
	}
	var words []string
	for i := 2; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch name {
		case "-n", "--namespace", "-o", "--output", "--socket":
			if !joined {
				if i++; i == len(args) {
					return q, false
				}
				value = args[i]
			}
		case "-A", "--all-namespaces", "--no-headers", "-owide":
			if joined {
				return q, false
			}
		default:
			words = append(words, args[i])
			continue
		}
		if !q.flag(name, value) {
			return q, false
		}
	}
	if len(words) == 2 && !q.all && plain(words[1]) {
		q.name, words = words[1], words[:1]
	}
	return q, len(words) == 1 && (words[0] == "pods" || words[0] == "pod" || words[0] == "po")
}

// flag sets one and tells whether it is understood.
func (q *query) flag(name, value string) bool {
	switch name {
	case "-n", "--namespace":
		q.namespace = value
		return plain(value)
	case "-o", "--output":
		q.wide = value == "wide"
		return q.wide
	case "--socket":
		q.socket = value
	case "-A", "--all-namespaces":
		q.all = true
	case "--no-headers":
		q.bare = true
	case "-owide":
		q.wide = true
	}
	return true
}

// plain tells whether s can be an object's name and stand in a path as it is.
func plain(s string) bool {
	return s != "" && s[0] != '-' && s[0] != '.' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
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

// ask gets the table from podd. By HTTP 1.0 the answer is whole when the connection ends.
func (q query) ask() (*table, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), "podd")
	defer conn.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: strings.TrimPrefix(q.socket, "unix://")}); err != nil {
		return nil, err
	}
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
	if _, err := conn.WriteString("GET " + q.path() + " HTTP/1.0\r\nHost: podd\r\nUser-Agent: podctl\r\nAccept: " + accept + "\r\n\r\n"); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	head, body, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.")) || !bytes.HasSuffix(status, []byte(" 200 OK")) {
		return nil, errors.New("podd: " + string(status))
	}
	for line := range bytes.Lines(bytes.ToLower(fields)) {
		if bytes.HasPrefix(line, []byte("warning:")) || bytes.HasPrefix(line, []byte("transfer-encoding:")) {
			return nil, errors.New("podd: " + string(line))
		}
	}
	t := new(table)
	d := json.NewDecoder(bytes.NewReader(body))
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
