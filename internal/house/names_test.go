package house

import (
	"go/ast"
	"go/token"
	"testing"
)

// TestDocumented wants a comment at every package and every exported name of
// the product, methods of unexported types left out: their interface has it.
func TestDocumented(t *testing.T) {
	fset, files := parsed(t, product)
	packages := map[string]bool{} // folder and package: has a comment
	for _, f := range files {
		dir := fset.Position(f.Pos()).Filename
		for len(dir) > 0 && dir[len(dir)-1] != '/' {
			dir = dir[:len(dir)-1]
		}
		key := dir + " " + f.Name.Name
		packages[key] = packages[key] || f.Doc != nil
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && ofExported(d.Recv) {
					t.Errorf("%v: %s has no comment", fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				undocumented(d, func(name *ast.Ident) {
					t.Errorf("%v: %s has no comment", fset.Position(name.Pos()), name.Name)
				})
			}
		}
	}
	for key, ok := range packages {
		if !ok {
			t.Errorf("package %s has no comment", key)
		}
	}
}

// ofExported reports whether a method with this receiver, or a function, can be
// called from other packages by its type's name.
func ofExported(recv *ast.FieldList) bool {
	if recv == nil || len(recv.List) == 0 {
		return true
	}
	for x := recv.List[0].Type; ; {
		switch v := x.(type) {
		case *ast.StarExpr:
			x = v.X
		case *ast.IndexExpr:
			x = v.X
		case *ast.IndexListExpr:
			x = v.X
		case *ast.Ident:
			return v.IsExported()
		default:
			return true
		}
	}
}

// undocumented calls report for each exported name of d without a comment of its
// own, beside it or over its group.
func undocumented(d *ast.GenDecl, report func(*ast.Ident)) {
	if d.Tok == token.IMPORT {
		return
	}
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || len(d.Specs) > 1 && d.Lparen.IsValid()) {
				report(s.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					report(name)
				}
			}
		}
	}
}
