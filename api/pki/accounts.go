package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ensureAccountsKey reads the key that signs tokens of service accounts. One that is damaged is made again: all tokens are void
// then, and pods get new ones. A file that cannot be read says nothing about the key, and stays.
func (p *PKI) ensureAccountsKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(p.options.Dir, "accounts.pem")
	key, err := readKey(path)
	switch {
	case err == nil:
		return key, os.Chmod(path, 0o600)
	case errors.Is(err, fs.ErrNotExist):
		p.options.Log.Info("key of service account tokens made", "file", path)
	case errors.As(err, new(*fs.PathError)):
		return nil, err
	default:
		p.options.Log.Warn("key of service account tokens made again", "file", path, "reason", err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	if err := writeFile(path, data); err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return key, nil
}

// readKey reads what encodeKey wrote; anything else is an error. It is *fs.PathError if the file cannot be read.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it has no key")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("its curve is %s", key.Curve.Params().Name)
	}
	if again, err := encodeKey(key); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("it is damaged")
	}
	return key, nil
}

// encodeKey is the key and its public key, in PEM: what has become another key is not taken for this one.
func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})...), nil
}
