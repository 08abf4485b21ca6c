package quick

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// reply is what podd says to a request.
type reply struct {
	status   string   // code and reason
	warnings []string // each as it is to be read
	body     []byte
}

// exchange sends a request, head with its line and fields, and reads the answer. By HTTP 1.0 that is whole when the connection
// ends.
func exchange(socket, head string, body []byte) (*reply, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), "podd")
	defer conn.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: strings.TrimPrefix(socket, "unix://")}); err != nil {
		return nil, err
	}
	request := append([]byte(head+"Host: podd\r\nUser-Agent: podctl\r\n\r\n"), body...)
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	return read(data)
}

// read takes an answer apart, as far as it is one that podd gives.
func read(data []byte) (*reply, error) {
	head, body, whole := bytes.Cut(data, []byte("\r\n\r\n"))
	status, fields, _ := strings.Cut(string(head), "\r\n")
	version, status, _ := strings.Cut(status, " ")
	if !whole || !strings.HasPrefix(version, "HTTP/1.") {
		return nil, errors.New("podd: no answer in HTTP")
	}
	r := &reply{status: status, body: body}
	for field := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(field, ":")
		switch strings.ToLower(name) {
		case "transfer-encoding":
			return nil, errors.New("podd: an answer in pieces")
		case "content-length":
			if strings.TrimSpace(value) != strconv.Itoa(len(body)) {
				return nil, errors.New("podd: a part of an answer")
			}
		case "warning":
			r.warnings = append(r.warnings, warnings(value)...)
		}
	}
	return r, nil
}

// warnings are the texts of a field of that name: 299 - "text", 299 - "more".
func warnings(field string) (texts []string) {
	for {
		_, rest, found := strings.Cut(field, "\"")
		if !found {
			return texts
		}
		var text []byte
		for len(rest) > 0 && rest[0] != '"' {
			if rest[0] == '\\' && len(rest) > 1 {
				rest = rest[1:]
			}
			text = append(text, rest[0])
			rest = rest[1:]
		}
		texts = append(texts, string(text))
		field = strings.TrimPrefix(rest, "\"")
	}
}
