// Package images holds what podd and its clients say to each other about images, on podd's own paths:
//
//	GET    /podd/v1/images            -> {"images":[Info, ...]}
//	POST   /podd/v1/images/pull?ref=  -> a stream of Progress, one JSON value per line; the last has Done set
//	POST   /podd/v1/images/load       -> the same stream; the request body is an OCI or docker archive, plain or gzipped
//	DELETE /podd/v1/images?ref=       -> 204, also when there was no such image
//
// A refusal before the stream starts is a metav1.Status, as everywhere in the API. It imports nothing, so that a client
// does not carry the server.
package images

import "time"

// Paths of the image requests.
const (
	Path     = "/podd/v1/images"
	PullPath = "/podd/v1/images/pull"
	LoadPath = "/podd/v1/images/load"
)

// List answers GET.
type List struct {
	Images []Info `json:"images"`
}

// Info is one image on the host.
type Info struct {
	Name    string    `json:"name"`    // full reference, e.g. docker.io/library/busybox:1.36
	ID      string    `json:"id"`      // digest of the image's configuration
	Digest  string    `json:"digest"`  // digest of the manifest or index the name points to
	Size    int64     `json:"size"`    // bytes of the content in the store, compressed as it was pulled
	Created time.Time `json:"created"` // when the name was last written on this host
}

// States of a layer.
const (
	Waiting     = "waiting"     // known, not begun
	Downloading = "downloading" // Offset of Total bytes are there
	Unpacking   = "unpacking"   // all bytes are there
	Done        = "done"        // on the host
)

// Layer is the state of one blob of the image.
type Layer struct {
	Digest string `json:"digest"`
	Status string `json:"status"` // Waiting, Downloading, Unpacking or Done
	Offset int64  `json:"offset"` // bytes
	Total  int64  `json:"total"`  // bytes; 0 while unknown
}

// Progress is one line of a pull or a load. Each line is the whole state, so a reader may miss any but the last.
type Progress struct {
	Ref    string  `json:"ref"`
	Status string  `json:"status"` // a few words: resolving, downloading, unpacking, done
	Layers []Layer `json:"layers,omitempty"`

	Done  bool   `json:"done,omitempty"`  // the last line of this stream
	Error string `json:"error,omitempty"` // with Done: why it did not work

	// What came of it, with Done and no Error: Image for a pull; Images for a load, whose archive may hold several.
	Image  *Info  `json:"image,omitempty"`
	Images []Info `json:"images,omitempty"`
}
