// Command generate writes the OpenAPI documents of what podd serves into a directory. It is run by go generate: the
// definitions it needs would make podd itself some 20 MB larger.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	restful "github.com/emicklei/go-restful/v3"
	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	definitions "k8s.io/kubernetes/pkg/generated/openapi"

	"podd/api"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIRECTORY")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	s, err := api.New(api.Config{NodeName: "node", Runtime: struct{ api.Runtime }{}}) // nobody will call it
	if err != nil {
		return err
	}
	services, err := s.WebServices()
	if err != nil {
		return err
	}
	namer := openapi.NewDefinitionNamer(legacyscheme.Scheme)
	v2 := &common.Config{
		ProtocolList: []string{"https"}, Info: info(), GetOperationIDAndTagsFromRoute: operation,
		DefaultResponse:   &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		GetDefinitionName: namer.GetDefinitionName, GetDefinitions: definitions.GetOpenAPIDefinitions,
	}
	swagger, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), v2)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "v2"), swagger, toProtobufV2); err != nil {
		return err
	}
	for _, service := range services {
		path := strings.Trim(service.RootPath(), "/")
		v3 := &common.OpenAPIV3Config{
			Info: info(), GetOperationIDAndTagsFromRoute: operation,
			DefaultResponse:   &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
			GetDefinitionName: namer.GetDefinitionName, GetDefinitions: definitions.GetOpenAPIDefinitions,
		}
		v3.Definitions = definitions.GetOpenAPIDefinitions(func(name string) spec.Ref {
			short, _ := namer.GetDefinitionName(name)
			return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(short))
		})
		document, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{service}), v3)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, "v3", strings.ReplaceAll(path, "/", "_"))
		if err := write(name, document, handler3.ToV3ProtoBinary); err != nil {
			return err
		}
	}
	return nil
}

func toProtobufV2(text []byte) ([]byte, error) {
	document, err := openapi_v2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(document)
}

// operation names a route as upstream does.
func operation(route common.Route) (string, []string, error) {
	adapter, ok := route.(*restfuladapter.RouteAdapter)
	if !ok {
		return "", nil, fmt.Errorf("operation of %s: a foreign route: %T", route.Path(), route)
	}
	return openapi.GetOperationIDAndTags(adapter.Route)
}

func info() *spec.Info { return &spec.Info{InfoProps: spec.InfoProps{Title: "podd", Version: "v1"}} }

// write makes name.json.gz and name.pb.gz.
func write(name string, document any, toProtobuf func([]byte) ([]byte, error)) error {
	text, err := json.Marshal(document)
	if err != nil {
		return err
	}
	binary, err := toProtobuf(text)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	for suffix, data := range map[string][]byte{".json.gz": text, ".pb.gz": binary} {
		var zipped bytes.Buffer
		w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(name+suffix, zipped.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
