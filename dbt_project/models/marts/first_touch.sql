{{ touches('asc') }}
