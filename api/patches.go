package api

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// maxPatch is what is read of a JSON patch to look at it; upstream's handler refuses longer bodies (3 MiB) itself.
const maxPatch = 3<<20 + 1

// withWholePatches refuses a JSON patch that replaces the whole object with nothing: upstream's library panics on it.
func withWholePatches(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if r.Method != http.MethodPatch || types.PatchType(kind) != types.JSONPatchType {
			handler.ServeHTTP(w, r)
			return
		}
		begin, err := io.ReadAll(io.LimitReader(r.Body, maxPatch))
		if err != nil {
			respondError(w, r, apierrors.NewBadRequest("read the patch: "+err.Error()))
			return
		}
		if lacksValue(begin) {
			respondError(w, r, apierrors.NewBadRequest(`JSON patch: an operation "add" or "replace" of the whole object, path "", has no "value"`))
			return
		}
		rest := r.Body
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(begin), rest), rest}
		handler.ServeHTTP(w, r)
	})
}

// lacksValue tells whether one of a patch's operations puts nothing in the place of the whole object.
func lacksValue(patch []byte) bool {
	var all []map[string]json.RawMessage
	if json.Unmarshal(patch, &all) != nil {
		return false // the handler says what is wrong with it
	}
	for _, one := range all {
		var op, path string
		_ = json.Unmarshal(one["op"], &op)
		known := json.Unmarshal(one["path"], &path) == nil
		_, has := one["value"]
		if known && path == "" && (op == "add" || op == "replace") && !has {
			return true
		}
	}
	return false
}
