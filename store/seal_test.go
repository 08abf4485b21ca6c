package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const word = "correct horse battery staple"

// openSealed opens the store of dir with its keys.
func openSealed(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Path: filepath.Join(dir, "state.db"), Keys: filepath.Join(dir, "secrets.key")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, key string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(word), 0, 0); err != nil {
		t.Fatal(err)
	}
}

func mustGet(t *testing.T, s *Store, key string) {
	t.Helper()
	if e, ok := s.Get(key); !ok || string(e.Data) != word {
		t.Errorf("%s is %q", key, e.Data)
	}
}

// sealedStore is a directory with a closed store of one secret, the file of its keys, and what is in that.
func sealedStore(t *testing.T) (dir, keys string, text []byte) {
	t.Helper()
	dir = t.TempDir()
	keys = filepath.Join(dir, "secrets.key")
	s := openSealed(t, dir)
	put(t, s, "/secrets/default/a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	return dir, keys, text
}

// isPlain tells whether the state file tells the word to whoever reads it.
func isPlain(t *testing.T, dir string) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(data, []byte(word))
}

// A secret is nowhere in the file, in a frame as in a snapshot, and there again after a restart; other objects are as
// they were.
func TestSealed(t *testing.T) {
	dir := t.TempDir()
	s := openSealed(t, dir)
	put(t, s, "/secrets/default/a")
	if isPlain(t, dir) {
		t.Error("a frame tells the secret")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if isPlain(t, dir) {
		t.Error("the snapshot tells the secret")
	}
	s = openSealed(t, dir)
	mustGet(t, s, "/secrets/default/a")
	put(t, s, "/configmaps/default/a")
	if !isPlain(t, dir) {
		t.Error("a configmap is sealed: this test cannot tell plain from sealed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "secrets.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of keys: %v, %v", info, err)
	}
}

// What a podd without keys has written is sealed at the first start with one.
func TestSealedLater(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "state.db"))
	put(t, s, "/secrets/default/a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !isPlain(t, dir) {
		t.Fatal("it is sealed without keys")
	}
	s = openSealed(t, dir)
	defer s.Close()
	if isPlain(t, dir) {
		t.Error("it is still plain")
	}
	mustGet(t, s, "/secrets/default/a")
}

// Another first key seals everything anew, and the old one is not needed then.
func TestSealedAnew(t *testing.T) {
	dir, keys, old := sealedStore(t)
	fresh := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, keySize)) + "\n"
	write := func(text string) {
		if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fresh + string(old))
	if err := openSealed(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	write(fresh)
	s := openSealed(t, dir)
	defer s.Close()
	mustGet(t, s, "/secrets/default/a")
}

// Without the key the store does not open, nothing is moved aside or made, and the error names the file.
func TestSealedWithoutKey(t *testing.T) {
	dir, keys, good := sealedStore(t)
	for _, bad := range []string{"", base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		if err := os.Remove(keys); err != nil {
			t.Fatal(err)
		}
		if bad != "" {
			if err := os.WriteFile(keys, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Open(Options{Path: filepath.Join(dir, "state.db"), Keys: keys})
		if !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), keys) || !strings.Contains(err.Error(), "/secrets/default/a") {
			t.Errorf("with keys %q: %v", bad, err)
		}
		if now, _ := os.ReadFile(keys); string(now) != bad {
			t.Errorf("the file of keys was %q and is %q: a key was made that opens nothing", bad, now)
		}
		if err := os.WriteFile(keys, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := openSealed(t, dir)
	defer s.Close()
	mustGet(t, s, "/secrets/default/a")
}

// Files of keys that are no good are refused with the line.
func TestKeysFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "no key is in it",
		"# only this\n":        "no key is in it",
		"# a\nAAAA\n":          "line 2: is not 32 bytes in base64",
		"not base64 at all!\n": "line 1: is not 32 bytes in base64",
	} {
		file := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openKeyring(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyring(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file for everybody: %v", err)
	}
}

// One secret cannot be put in the place of another, nor an older one in the place of a newer.
func TestSealedIsBound(t *testing.T) {
	k, err := openKeyring(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.make(); err != nil {
		t.Fatal(err)
	}
	e := k.seal(entry{kind: objectEntry, key: "/secrets/default/a", revision: 4, data: []byte(word)})
	if got, stale, err := k.open(e); err != nil || stale || string(got.data) != word || got.kind != objectEntry {
		t.Fatalf("%+v, %v, %v", got, stale, err)
	}
	other, older, flipped := e, e, e
	other.key, older.revision = "/secrets/default/b", 3
	flipped.data = bytes.Clone(e.data)
	flipped.data[len(flipped.data)-1] ^= 1
	for what, bad := range map[string]entry{"another name": other, "another revision": older, "a flipped bit": flipped} {
		if _, _, err := k.open(bad); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
