package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Secrets are sealed in the state file: AES-256-GCM, with a nonce by chance for each time that one is written, bound to its
// key and revision, so that neither can be exchanged for another. In memory they are as all objects are.
//
//	sealed data: id of the key 4 | nonce 12 | ciphertext with its tag
//
// The file of keys has one key per line, 32 bytes in base64; lines with # are comments. The first one seals, all
// of them open: to change the key, put a new line before the old one and restart podd, which seals everything anew at its
// start; the old line can go then.
const (
	keySize  = 32
	keyIDLen = 4
)

// ErrNoKey is a sealed object whose key is not in the file of keys.
var ErrNoKey = errors.New("sealed with a key that is not there")

// sealed tells whether objects at key are sealed on disk.
func sealed(key string) bool { return strings.HasPrefix(key, "/secrets/") }

// keyID tells keys apart without saying anything about them.
type keyID [keyIDLen]byte

// keyring seals and opens. Without one nothing is sealed.
type keyring struct {
	path string
	main keyID
	keys map[keyID]cipher.AEAD
}

// openKeyring reads the keys at path. No file is no keys: make then makes the first one.
func openKeyring(path string) (*keyring, error) {
	k := &keyring{path: path, keys: map[keyID]cipher.AEAD{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read keys %s: others than its owner may use it: chmod 600 %s", path, path)
	}
	for n, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("read keys %s: line %d: is not %d bytes in base64", path, n+1, keySize)
		}
		if err := k.add(key); err != nil {
			return nil, fmt.Errorf("read keys %s: line %d: %w", path, n+1, err)
		}
	}
	if len(k.keys) == 0 {
		return nil, fmt.Errorf("read keys %s: no key is in it", path)
	}
	return k, nil
}

func (k *keyring) add(key []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(key)
	id := keyID(sum[:keyIDLen])
	if len(k.keys) == 0 {
		k.main = id
	}
	k.keys[id] = aead
	return nil
}

// make makes the first key and its file, durably: what is sealed with it is lost without.
func (k *keyring) make() error {
	if len(k.keys) > 0 {
		return nil
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key)
	if err := writeKey(k.path, key); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	return k.add(key)
}

func writeKey(path string, key []byte) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	text := "# Seals the Secrets in podd's state file, which cannot be read without it.\n" + base64.StdEncoding.EncodeToString(key) + "\n"
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// bound is what a sealed object cannot be separated from.
func bound(e entry) []byte {
	return binary.BigEndian.AppendUint64([]byte(e.key), uint64(e.revision))
}

// seal makes e what is written of it.
func (k *keyring) seal(e entry) entry {
	if k == nil || e.kind != objectEntry || !sealed(e.key) {
		return e
	}
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	data := append(append(make([]byte, 0, len(e.data)+32), k.main[:]...), nonce...)
	e.kind, e.data = sealedEntry, k.keys[k.main].Seal(data, nonce, e.data, bound(e))
	return e
}

// open is the inverse of seal. stale is true if it would be written differently now.
func (k *keyring) open(e entry) (_ entry, stale bool, err error) {
	if e.kind != sealedEntry {
		return e, k != nil && e.kind == objectEntry && sealed(e.key), nil
	}
	if len(e.data) < keyIDLen+12 {
		return e, false, fmt.Errorf("%w: %s is sealed, and short", errCorrupt, e.key)
	}
	id, nonce, text := keyID(e.data[:keyIDLen]), e.data[keyIDLen:keyIDLen+12], e.data[keyIDLen+12:]
	if k == nil || k.keys[id] == nil {
		return e, false, k.missing(e.key)
	}
	if e.data, err = k.keys[id].Open(nil, nonce, text, bound(e)); err != nil {
		return e, false, fmt.Errorf("%w: %s does not open: %w", errCorrupt, e.key, err)
	}
	e.kind = objectEntry
	return e, id != k.main, nil
}

func (k *keyring) missing(key string) error {
	if k == nil {
		return fmt.Errorf("%s: %w", key, ErrNoKey)
	}
	return fmt.Errorf("%s: %w: put the key back into %s; without it, Secrets are lost", key, ErrNoKey, k.path)
}
