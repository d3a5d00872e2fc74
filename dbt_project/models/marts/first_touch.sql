{{ touches_of_people('asc') }}
