package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// ErrPull is the kind of every error of a pull but an invalid name and the end of the caller's context.
var ErrPull = errors.New("pull")

// ErrInUse is the kind of error of removing an image that a pod needs.
var ErrInUse = errors.New("image is in use")

// PullError is a pull that did not work. It is ErrPull to errors.Is.
type PullError struct {
	Name  string // full name
	Cause string // in a few words
	Err   error  // in detail
}

func (e *PullError) Error() string        { return "pull " + e.Name + ": " + e.Cause }
func (e *PullError) Unwrap() error        { return e.Err }
func (e *PullError) Is(target error) bool { return target == ErrPull }

// stalled is a download that brought nothing for a while.
type stalled time.Duration

func (s stalled) Error() string { return fmt.Sprintf("no data for %v", time.Duration(s)) }

// words tells the cause of an error to a user.
func words(err error) string {
	var (
		status remoteerrors.ErrUnexpectedStatus
		cert   *tls.CertificateVerificationError
		dns    *net.DNSError
		op     *net.OpError
		stall  stalled
	)
	text := err.Error()
	switch {
	case errors.As(err, &stall):
		return stall.Error()
	case errors.As(err, &status):
		return statusWords(status)
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return "unauthorized: the repository does not exist or needs credentials"
	case strings.Contains(text, "no match for platform"):
		return "manifest has no " + platforms.DefaultString()
	case errors.As(err, &cert):
		return "certificate: " + cert.Err.Error()
	case errors.Is(err, syscall.ECONNREFUSED) && errors.As(err, &op) && op.Addr != nil:
		return "connection refused by " + op.Addr.String()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &dns):
		return "look up " + dns.Name + ": " + dns.Err
	case errors.Is(err, syscall.ENOSPC) || strings.Contains(text, syscall.ENOSPC.Error()):
		return "no space left on device"
	case strings.Contains(text, "unexpected commit digest"):
		return "content does not have the digest that was asked for"
	case errdefs.IsNotFound(err):
		return "not found"
	case cut(err):
		return "connection broken: " + text
	}
	return text
}

func statusWords(s remoteerrors.ErrUnexpectedStatus) string {
	switch s.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "unauthorized: the registry answers " + s.Status
	case http.StatusNotFound:
		return "not found"
	case http.StatusTooManyRequests:
		return "too many requests: the registry answers " + s.Status
	}
	return "the registry answers " + s.Status
}

// cut says whether a connection broke, so that going on where it broke may help.
func cut(err error) bool {
	var stall stalled
	if errors.As(err, &stall) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

var errNoSeek = errors.New("the registry cannot go on in the middle of a blob")
