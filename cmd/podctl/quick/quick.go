// Package quick does before the rest of podctl is there what is done most: `podctl get pods`, and `podctl apply` of one pod.
//
// What kubectl's commands are made of takes three quarters of the time of such a command before main begins. A package is
// initialised as soon as all it imports are, the first by name of those that could be: this one imports little, so it comes before
// them. What it does not know in every letter it leaves to kubectl's commands, which do all again: other flags, errors, and
// answers that need more than columns. What it prints is what those would.
package quick

import (
	"io"
	"os"
	"slices"
	"strings"

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
	if len(args) < 3 || env("KUBECONFIG") != "" {
		return false
	}
	switch args[1] {
	case "get":
		return get(args[2:], env, stdout, stderr)
	case "apply":
		return apply(args[2:], env, stdout, stderr)
	}
	return false
}

// common is what every command has.
type common struct {
	socket, namespace string
}

func commonOf(env func(string) string) common {
	c := common{socket: env("PODD_SOCKET"), namespace: "default"}
	if c.socket == "" {
		c.socket = DefaultSocket
	}
	return c
}

// flag sets one and tells whether it is understood.
func (c *common) flag(name, value string) bool {
	switch name {
	case "-n", "--namespace":
		c.namespace = value
		return plain(value)
	case "--socket":
		c.socket = value
		return true
	}
	return false
}

// parse gives the flags in args to set, those of valued with what comes after them, and returns all other arguments. It tells
// whether all flags were understood.
func parse(args []string, set func(name, value string) bool, valued ...string) (words []string, ok bool) {
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			words = append(words, args[i])
			continue
		}
		name, value, joined := strings.Cut(args[i], "=")
		takes := slices.Contains(valued, name)
		if joined && !takes {
			return nil, false
		}
		if takes && !joined {
			if i++; i == len(args) {
				return nil, false
			}
			value = args[i]
		}
		if !set(name, value) {
			return nil, false
		}
	}
	return words, true
}

// plain tells whether s can be an object's name and stand in a path as it is.
func plain(s string) bool {
	return s != "" && s[0] != '-' && s[0] != '.' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}
