package images

import (
	"errors"
	"fmt"

	"github.com/distribution/reference"
)

// ErrInvalidName is the kind of error of a reference that is none (waiting reason InvalidImageName).
var ErrInvalidName = errors.New("invalid image name")

// Normalize gives the full name of ref as containerd names it: with registry and path, and with the tag latest if ref has
// neither tag nor digest. Of tag and digest only the digest counts, as upstream's ParseDockerRef has it.
func Normalize(ref string) (string, error) {
	if len(ref) > 4096 {
		return "", fmt.Errorf("%w: longer than 4096 characters", ErrInvalidName)
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w %q: %w", ErrInvalidName, ref, err)
	}
	return named.String(), nil
}

// repository is the part of a full name before tag and digest, or empty.
func repository(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return named.Name()
}
