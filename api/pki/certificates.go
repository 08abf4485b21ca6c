package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// pair is a certificate with its key.
type pair struct {
	leaf   *x509.Certificate
	signer *ecdsa.PrivateKey
	key    []byte // PEM
}

func (p pair) certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.leaf.Raw})
}

func (p pair) pem() []byte { return append(bytes.Clone(p.key), p.certificate()...) }

func (p pair) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.leaf.Raw}, PrivateKey: p.signer, Leaf: p.leaf}
}

// readPair reads what pem wrote; anything else is an error.
func readPair(path string) (pair, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return pair{}, err
	}
	key, rest := pem.Decode(data)
	if key == nil || key.Type != "PRIVATE KEY" {
		return pair{}, errors.New("it has no key")
	}
	block, _ := pem.Decode(rest)
	if block == nil || block.Type != "CERTIFICATE" {
		return pair{}, errors.New("it has no certificate")
	}
	signer, err := parseKey(key.Bytes)
	if err != nil {
		return pair{}, err
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return pair{}, fmt.Errorf("read certificate: %w", err)
	}
	if !signer.PublicKey.Equal(leaf.PublicKey) {
		return pair{}, errors.New("its key is that of another certificate")
	}
	return pair{leaf: leaf, signer: signer, key: pem.EncodeToMemory(key)}, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("its key is a %T", parsed)
	}
	return key, nil
}

// newPair makes a key and has its certificate signed, by itself when there is no authority.
func newPair(template *x509.Certificate, authority *pair, now time.Time, life time.Duration) (pair, error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return pair{}, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(life)
	template.BasicConstraintsValid = true
	parent, with := template, signer
	if authority != nil {
		parent, with = authority.leaf, authority.signer
		if template.NotAfter.After(parent.NotAfter) {
			template.NotAfter = parent.NotAfter
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &signer.PublicKey, with)
	if err != nil {
		return pair{}, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return pair{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return pair{}, err
	}
	return pair{leaf: leaf, signer: signer, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}, nil
}

// newAuthority makes an authority. Its name has a part that is random: to clients that know an older one of the same name
// the signatures would look broken.
func newAuthority(now time.Time) (pair, error) {
	return newPair(&x509.Certificate{
		Subject: pkix.Name{CommonName: "podd " + rand.Text()[:8]}, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil, now, authorityLife)
}

func newServer(authority pair, names []string, ips []net.IP, now time.Time) (pair, error) {
	return newPair(&x509.Certificate{
		Subject: pkix.Name{CommonName: "podd"}, DNSNames: names, IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &authority, now, serverLife)
}

func newClient(authority pair, user string, groups []string, now time.Time) (pair, error) {
	return newPair(&x509.Certificate{
		Subject:  pkix.Name{CommonName: user, Organization: groups},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, &authority, now, clientLife)
}
