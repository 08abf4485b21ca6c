package pki

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const tokenBytes = 32

// ensureTokens reads the tokens and makes those that are missing; a file that cannot be read is made again.
func (p *PKI) ensureTokens() (map[string]string, error) {
	path := filepath.Join(p.options.Dir, "tokens")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tokens, damage := parseTokens(data)
	if damage != nil {
		p.options.Log.Warn("bearer tokens made again", "file", path, "reason", damage)
		tokens = map[string]string{}
	}
	missing := damage != nil
	var out strings.Builder
	for _, user := range p.options.Users {
		if tokens[user] == "" {
			random := make([]byte, tokenBytes)
			_, _ = rand.Read(random) // does not fail
			tokens[user], missing = base64.RawURLEncoding.EncodeToString(random), true
		}
		fmt.Fprintf(&out, "%s %s\n", user, tokens[user])
	}
	if !missing {
		return tokens, os.Chmod(path, 0o600)
	}
	if err := writeFile(path, []byte(out.String())); err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return tokens, nil
}

func parseTokens(data []byte) (map[string]string, error) {
	tokens := map[string]string{}
	if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
		return nil, errors.New("its last line is cut off")
	}
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) != 2 {
			return nil, errors.New("a line is not a user and a token")
		}
		random, err := base64.RawURLEncoding.DecodeString(fields[1])
		if err != nil || len(random) != tokenBytes {
			return nil, fmt.Errorf("what %s has is not a token", fields[0])
		}
		tokens[fields[0]] = fields[1]
	}
	return tokens, nil
}

// writeFile puts data at path, durably and as a whole. What an earlier write left behind is overwritten.
func writeFile(path string, data []byte) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
