package logs

// Protocol is the version that podd and podd-logd must share. The operations hello and shutdown, and the fields they use,
// stay as they are in every version, so that a newer podd can send an older podd-logd away.
const Protocol = 1

const maxMessage = 16 << 10

// request is one line of JSON; one reply of one line follows. After the one of a tap the connection carries frames.
type request struct {
	Protocol int     `json:"protocol"`
	Op       string  `json:"op"` // hello, shutdown, ensure, drain, remove, list, losses, tap
	Target   *Target `json:"target,omitempty"`
	ID       string  `json:"id,omitempty"`
}

type reply struct {
	Hello
	Error   string   `json:"error,omitempty"`
	Pending bool     `json:"pending,omitempty"` // drain: not at the end yet, ask again
	IDs     []string `json:"ids,omitempty"`
	Losses  []Loss   `json:"losses,omitempty"`
}

// Loss is what of a container's output the disk did not take.
type Loss struct {
	ID    string `json:"id"`
	Lines int    `json:"lines"` // or parts of lines
	Bytes int64  `json:"bytes"`
	Cause string `json:"cause"` // of the last of them
}

// Hello is what a podd-logd says of itself.
type Hello struct {
	Protocol int    `json:"protocol"`
	Build    string `json:"build"`
	PID      int    `json:"pid"`
}
