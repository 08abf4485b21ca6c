//go:build !race

package manifest

const slow = 4 // a machine that is shared with other tests
